"""The command line: `sidetune-run` composes and runs, `sidetune` has the verbs. Torch is imported only where something is computed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence

from sidetune_core.cli.commands import app
from sidetune_core.cli.commands.record import collect
from sidetune_core.cli.commands.shared import ordered
from sidetune_core.cli.commands.sweep import sweep
from sidetune_core.config.argv import parse
from sidetune_core.config.resolve import resolve
from sidetune_core.errors import EndedElsewhere, Interrupted, SidetuneError
from sidetune_core.results.report import changed_lines, matrix_table, metrics_lines
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import resume_command

COMPOSING: Mapping[str, Callable[..., int]] = {"sweep": sweep, "collect": collect}
"""Verbs that take options of `sidetune-run`."""


def main_run(argv: Sequence[str] | None = None) -> int:
    """``sidetune-run``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(words), debug="--debug" in words)


def main(argv: Sequence[str] | None = None) -> int:
    """``sidetune``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words and words[0] in COMPOSING:
        words[1:] = ordered(COMPOSING[words[0]], words[1:])
    description = "Look at registered parts and at runs. To run something: sidetune-run --help"

    def act() -> int:
        status = app.cli(prog="sidetune", description=description, args=words or ["--help"])
        return status if isinstance(status, int) else 0

    return _guarded(act, debug)


def _guarded(act: Callable[[], int], debug: bool) -> int:
    """Run a command; what the user can mend becomes one paragraph and status 2."""
    try:
        return act()
    except SidetuneError as error:
        if debug:
            raise
        if isinstance(error, EndedElsewhere):
            return 2
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if stop.told:
            print(f"\ninterrupted; go on with: {resume_command(stop.folder)}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has enough
        sys.stderr.close()
        return 0


def _run(argv: list[str]) -> int:
    asked = parse(argv)
    if asked.dry_run:
        composition = resolve(asked.spec)
        print(composition, file=sys.stderr)
        print(json.dumps(composition.to_spec().to_json(), indent=2))
        return 0
    from sidetune_core.training import run as training

    if asked.resume:
        run = training.resume(asked.resume, asked.quiet, asked.save_every)
    else:
        run = training.run(asked.spec, asked.out, asked.quiet, asked.save_every or training.SAVE_EVERY)
    if not run.is_main:
        return 0  # of several processes, the first one tells
    summary = summarise(run.folder)
    folder = run.folder.path
    print(f"\n{matrix_table(summary.results)}\n")
    print("\n".join(metrics_lines(summary.results)))
    print("\n" + "\n".join(changed_lines(summary)))
    print(f"\nrun folder  {folder}  (report.md, TensorBoard in tb/)")
    print(
        f"try next    sidetune-run --spec {folder / 'run.json'} --learner finetune    # the same stream, another method"
    )
    print(f"            sidetune report {folder.parent}/*    # compare runs")
    return 0
