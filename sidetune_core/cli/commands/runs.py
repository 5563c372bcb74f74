"""Verbs about run folders: `report`, `export`, `verify`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.errors import RunError, SidetuneError
from sidetune_core.results.compare_runs import COMPARED, against, compare_runs
from sidetune_core.results.grouping import MethodRuns, group_runs, same_stream
from sidetune_core.results.metrics import MAIN, Metric
from sidetune_core.results.report import RunSummary, changed_lines, matrix_table, metrics_lines
from sidetune_core.results.summary import summarise
from sidetune_core.results.tables import Format
from sidetune_core.storage.run_folder import open_run


def report(
    runs: Positional[tuple[Path, ...]],
    by: Literal["auto", "run", "method"] = "auto",
    reference: Path | None = None,
    format: Format = "text",
    figure: Path | None = None,
    curve: str = "",
    pictures: str = "",
) -> int:
    """Show one run, or compare several. Everything is computed from the run folders.

    Runs that differ only in the seed, the device or the feature store are one method. A line for a method has means over seeds,
    95 % intervals and the average rank over tasks; what it is called is what tells it from the others.

    Args:
        runs: run folders.
        by: a line for each run or for each method; auto is by method where one has several seeds.
        reference: a finished run of joint training: adds intransigence against the last row of its R.
        format: of the table: csv has plain numbers in full precision, latex needs the package booktabs.
        figure: draw to a .png, .svg or .pdf file instead: R of one run, or each task over time for several methods.
        curve: draw this figure of training over its steps instead of R: 'mean_loss', or in worlds to act in 'return' or 'success'.
        pictures: draw the pictures that dense tasks keep of this task, input and target and what each method makes of it.
    """
    if not runs:
        raise SidetuneError("name at least one run: sidetune report runs/*")
    summaries = _summaries(runs)
    extra = _against(reference, summaries) if reference is not None else ()
    single = len(summaries) == 1 and by == "auto"
    if single and figure is None and format == "text":
        (one,) = summaries
        print(f"{one.spec_line}\n\n{matrix_table(one.results)}\n")
        print("\n".join(metrics_lines(one.results, (*MAIN, *extra))) + "\n\n" + "\n".join(changed_lines(one)))
        return 0
    methods = group_runs(summary for summary in summaries if summary.status == "done")
    if by == "auto":
        by = "method" if any(len(method.runs) > 1 for method in methods) else "run"
    if curve and pictures:
        raise SidetuneError("--curve and --pictures are two figures; draw one after the other")
    if (curve or pictures) and figure is None:
        raise SidetuneError(
            f"--{'curve' if curve else 'pictures'} needs a file to draw to, such as --figure report.png"
        )
    if figure is not None:
        from sidetune_core.results.figures import draw, draw_curves, draw_methods, draw_pictures

        if curve:
            draw_curves(_complete(methods, summaries), curve, figure)
        elif pictures:
            draw_pictures(_complete(methods, summaries), pictures, figure)
        elif single:
            draw(summaries[0], figure)
        else:
            draw_methods(_complete(methods, summaries), figure)
        print(figure)
    elif by == "run":
        print(compare_runs(summaries, format, (*COMPARED, *extra)))
    else:
        from sidetune_core.results.compare_methods import compare_methods

        print(compare_methods(_complete(methods, summaries), format, (*COMPARED, *extra)))
    return 0


def _summaries(runs: Sequence[Path]) -> list[RunSummary]:
    """The runs that can be read; `runs/*` may hold other things."""
    summaries = []
    for path in runs:
        try:
            summaries.append(summarise(open_run(path)))
        except RunError as error:
            if len(runs) == 1:
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not summaries:
        raise SidetuneError("none of these folders holds a run")
    return summaries


def _against(reference: Path, summaries: Sequence[RunSummary]) -> tuple[Metric]:
    """The metric that a reference adds, if it was measured as the runs were."""
    joint = summarise(open_run(reference))
    for summary in summaries:
        if not same_stream([joint, summary]):
            raise RunError(
                f"{reference} cannot be a reference for {summary.folder}: env, tasks or metric are others"
            )
    return (against(joint),)


def _complete(methods: Sequence[MethodRuns], summaries: Sequence[RunSummary]) -> Sequence[MethodRuns]:
    """The methods, having said which runs they leave out."""
    for summary in summaries:
        if summary.status != "done":
            print(f"left out: {summary.folder} is not finished ({summary.status})", file=sys.stderr)
    for method in methods:
        for run in method.repeats:
            print(f"left out: {run.folder} repeats seed {run.spec.seed} of {method.name}", file=sys.stderr)
    if not methods:
        raise SidetuneError("none of these runs is finished; compare them as they are with --by run")
    return methods


def export(run: Positional[Path], part: str = "base", out: Path | None = None, half: Switch = False) -> int:
    """Write the weights of a part of a run's newest checkpoint to a file, for ``--base.weights`` or ``--side.weights``.

    Args:
        run: the run folder.
        part: 'base', 'side', 'sides.t0', …; an unknown one is answered with what there is.
        out: a .safetensors file; PART.safetensors where it is left out.
        half: round to 16 bits (IEEE half precision), for half the size; networks that read it compute in their own precision.
    """
    from sidetune_core.storage import checkpoint
    from sidetune_core.storage.weights import write_tensors

    folder = open_run(run)
    path = checkpoint.latest(folder.checkpoints)
    if path is None:
        raise SidetuneError(f"{run} has no checkpoint yet")
    tensors = checkpoint.read_part(path, part)
    out = out or Path(f"{part}.safetensors")
    if out.suffix != ".safetensors":
        raise SidetuneError(f"weights are written as .safetensors, not '{out.name}'")
    if half:
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
        if beyond := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise SidetuneError(f"{beyond[0]} of {run} has numbers beyond half precision; leave out --half")
    write_tensors(
        out, tensors, {"composition": str(folder.read_json("run.json")["composition"]), "part": part}
    )
    print(f"{out}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} numbers")
    return 0


def verify_run(run: Positional[Path]) -> int:
    """Check the certificate of a run, which says whether anything was forgotten, from the run's folder alone.

    The hashes in it are compared with the checkpoints, the learner is built again from the newest one, and the stored probes are sent
    through it. Exit status 0 where the certificate holds, whatever it says, and 1 where it does not.

    Args:
        run: the run folder.
    """
    from sidetune_core.certificate.record import certificate_lines
    from sidetune_core.certificate.verify import verify

    found = verify(open_run(run))
    for line in (*found.problems, *(f"note: {note}" for note in found.notes)):
        print(line)
    if found.problems:
        print(f"The certificate of {run} does NOT hold.")
        return 1
    print(
        "\n".join(
            certificate_lines(found.certificate)
            or [f"Nothing could be forgotten: {found.certificate.verdict}."]
        )
    )
    print(
        f"The certificate of {run} holds: the hashes and probes of {len(found.certificate.tasks)} tasks were checked."
    )
    return 0
