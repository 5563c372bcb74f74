"""The command line: `sidetune-run` composes and runs, `sidetune` has the verbs. Torch is imported only when something is to be run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from sidetune_core import arguments
from sidetune_core.compose import compose
from sidetune_core.errors import SidetuneError


def main_run(argv: Sequence[str] | None = None) -> int:
    """``sidetune-run``; returns the exit status."""
    return _guarded(_run, list(sys.argv[1:] if argv is None else argv))


def _guarded(act: Callable[[list[str]], int], argv: list[str]) -> int:
    """Turn what the user can mend into one paragraph and status 2."""
    try:
        return act(argv)
    except SidetuneError as error:
        if "--debug" in argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    asked = arguments.parse(argv)
    if asked.dry_run:
        composition = compose(asked.spec)
        print(composition)
        return 0
    from sidetune_core import engine  # torch

    run = engine.resume(asked.resume, asked.quiet) if asked.resume else engine.run(asked.spec, asked.out, asked.quiet)
    print(run.results)
    return 0
