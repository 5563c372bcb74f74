"""`sidetune run`, and `sidetune-run`: train on a stream of tasks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidetune_core.cli.terminal import screen
from sidetune_core.config.argv import parse
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.io.printable import one_line
from sidetune_core.system.collection import collected_after_imports

if TYPE_CHECKING:
    from sidetune_core.interfaces.tasks import Task


def run(argv: Sequence[str]) -> int:
    """Train as the arguments of `sidetune-run` say, and print the results; returns the exit status: 1
    if the run has diverged.
    """
    if sys.stderr.isatty() and "--quiet" not in argv and not {"--help", "-h"} & {*argv}:
        print("loading components", file=sys.stderr)  # with torch they take seconds
    with collected_after_imports():
        arguments = parse(argv, corrects=True)
        if arguments.dry_run and arguments.resolved is not None:
            return _dry_run(arguments.resolved)
        from sidetune_core.assembly.restore import read_resolved
        from sidetune_core.results.report import changed_lines, gap_lines, results_lines, scenario_lines
        from sidetune_core.results.screen import wrapped
        from sidetune_core.results.summary import summarise
        from sidetune_core.training import execution, resume
        from sidetune_core.training import run as training

    if arguments.resume:
        finished = resume.resume(
            arguments.resume,
            arguments.quiet,
            arguments.save_every,
            allow_changed=arguments.allow_changed,
            trust_local_code=arguments.trust_local_code,
            workers=arguments.workers,
            env=arguments.moved,
        )
    elif arguments.extend and arguments.resolved:
        from sidetune_core.training import extension

        finished = extension.extend_resolved(
            arguments.extend,
            arguments.resolved,
            arguments.tasks,
            arguments.out,
            arguments.quiet,
            arguments.save_every,
            arguments.allow_changed,
            arguments.trust_local_code,
        )
    else:
        save_every = arguments.save_every or execution.SAVE_EVERY
        finished = training.run(
            arguments.resolved or arguments.spec,
            arguments.out,
            arguments.quiet,
            save_every,
            arguments.keep,
            workers=arguments.workers or 1,
            measure=arguments.selection.measure,
            first_tasks=arguments.selection.first_tasks,
        )
    if not finished.is_main:
        return 0  # of several processes, the first one prints
    summary = summarise(finished.folder)
    folder = finished.folder.path
    heading = "".join(f"{line}\n\n" for line in scenario_lines(summary)[:1])
    shown = screen()
    print(f"\n{heading}{results_lines(summary.results, shown)}")
    print("\n" + wrapped([*gap_lines(summary), *changed_lines(summary)], shown))
    print(f"\nrun folder  {one_line(folder)}  (report.md, TensorBoard in tb/)")
    own = arguments.resolved if not arguments.extend else None
    resolved = own or read_resolved(finished.folder, trust_local_code=True)
    for line in _hints(folder, resolved, finished.tasks[-1], trusted=arguments.trust_local_code is True):
        print(one_line(line))
    return 1 if summary.diverged else 0


def _dry_run(resolved: ResolvedRun) -> int:
    """Print the resolved spec, after building everything that needs no data."""
    from sidetune_core.assembly.dry_run import fit_without_data
    from sidetune_core.cli.commands.shared import print_json

    fitted = fit_without_data(resolved)
    for line in (fitted.resolved, *fitted.lines, *filter(None, [fitted.warning])):
        print(one_line(line), file=sys.stderr)
    print_json(fitted.resolved.to_spec().to_json())
    return 0


def _hints(folder: Path, resolved: ResolvedRun, task: Task, trusted: bool) -> list[str]:
    """Commands to try next, `task` being one of the run's; `trusted` says that the user has given
    ``--trust-local-code``."""
    from sidetune_core.interfaces.handlers import HasHandler
    from sidetune_core.rl.rollout_task import Playable

    run, spec, runs = (shlex.quote(str(path)) for path in (folder, folder / "run.json", folder.parent))
    others = (component for slot, component in resolved.components.items() if slot != "learner")
    trust = trusted or any(component.names_code for component in others)
    another = "features" if resolved.components["learner"].plugin.name == "finetune" else "finetune"
    command = f"sidetune-run --spec {spec} --learner {another}{' --trust-local-code' if trust else ''}"
    lines = [
        f"try next    {command}    # the same tasks, another learner",
        f"            sidetune report {runs}    # compare runs",
    ]
    named_code = any(component.names_code for component in resolved.components.values())
    trust_run = " --trust-local-code" if trusted or named_code else ""
    if isinstance(task, Playable):
        named = f"{run} --task {shlex.quote(task.id)}"
        lines.append(f"            sidetune play {named}{trust_run}    # episodes of its policy")
    elif isinstance(resolved.components["env"].cls, HasHandler):
        lines.append(f"            sidetune predict {run} --tasks all{trust_run} FILES    # use it")
    return lines
