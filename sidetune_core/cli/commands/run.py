"""`sidetune run`, and `sidetune-run`: train on a stream of tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sidetune_core.cli.commands.shared import print_json
from sidetune_core.config.argv import parse


def run(argv: Sequence[str]) -> int:
    """Train as the arguments of `sidetune-run` say, and print the results; returns the exit status: 1
    if the run has diverged.
    """
    arguments = parse(argv)
    if arguments.dry_run and arguments.resolved is not None:
        print(arguments.resolved, file=sys.stderr)
        print_json(arguments.resolved.to_spec().to_json())
        return 0
    from sidetune_core.results.report import changed_lines, gap_lines, matrix_table, metrics_lines
    from sidetune_core.results.summary import summarise
    from sidetune_core.training import run as training

    if arguments.resume:
        finished = training.resume(
            arguments.resume,
            arguments.quiet,
            arguments.save_every,
            allow_changed=arguments.allow_changed,
            trust_local_code=arguments.trust_local_code,
        )
    else:
        save_every = arguments.save_every or training.SAVE_EVERY
        finished = training.run(
            arguments.resolved or arguments.spec, arguments.out, arguments.quiet, save_every
        )
    if not finished.is_main:
        return 0  # of several processes, the first one prints
    summary = summarise(finished.folder)
    folder = finished.folder.path
    print(f"\n{matrix_table(summary.results)}\n")
    print("\n".join(metrics_lines(summary.results)))
    print("\n" + "\n".join([*gap_lines(summary), *changed_lines(summary)]))
    print(f"\nrun folder  {folder}  (report.md, TensorBoard in tb/)")
    spec = folder / "run.json"
    print(f"try next    sidetune-run --spec {spec} --learner finetune    # the same tasks, another learner")
    print(f"            sidetune report {folder.parent}/*    # compare runs")
    return 1 if summary.diverged else 0
