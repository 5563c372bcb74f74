"""`sidetune report`: one run, or a comparison of several."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.cli.terminal import screen
from sidetune_core.errors import RunError, SidetuneError
from sidetune_core.io.printable import indented, one_line, printable
from sidetune_core.results.compare_runs import COMPARED, against, compare_runs
from sidetune_core.results.grouping import MethodRuns, group_runs, in_present_names, left_out, same_stream
from sidetune_core.results.matrix import full_matrix
from sidetune_core.results.metrics import MAIN, Metric
from sidetune_core.results.report import anytime_lines, changed_lines, gap_lines, results_lines
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.results.scenarios import with_scenario
from sidetune_core.results.screen import wrapped
from sidetune_core.results.summary import summarise
from sidetune_core.results.tables import Format
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.run_folder import open_run
from sidetune_core.storage.run_search import is_run, runs_below

SEARCH = "tuning.json"
"""The file that the folder of a search has."""


def report(
    runs: Positional[tuple[Path, ...]],
    group_by: Literal["auto", "run", "method"] = "auto",
    reference: Path | None = None,
    format: Format = "text",
    figure: Path | None = None,
    curve: str = "",
    images: str = "",
    full: Switch = False,
    long: Switch = False,
    html: Path | None = None,
) -> int:
    """Report one run, or compare several, from the run folders alone.

    Runs that differ only in the seed, the device or the cache are one method. The row of a method has means
    over seeds, 95 % confidence intervals and the average rank over tasks; its name is what distinguishes it
    from the other methods.

    Args:
        runs: run folders, or folders that hold runs or a search.
        group_by: one row per run or per method; auto groups by method if a method has several seeds.
        reference: a finished run of joint training: adds intransigence relative to the last row of its R.
        format: format of the table: csv has numbers in full precision, latex needs the package booktabs.
        figure: draw a .png, .svg or .pdf file instead: R of one run, or each task over time for several
            methods; runs of several scenarios are drawn to a file for each, NAME-class-incremental.png.
        curve: draw this training metric over steps instead of R: 'mean_loss', or 'return' or 'success' of
            rollouts.
        images: draw the saved images of this dense task: input, target and the prediction of each method.
        full: print all rows and columns of R of one run, however many tasks it has; csv has numbers in full
            precision.
        long: print the definitions and sources of metrics, and all columns of a comparison.
        html: write the report as one .html file instead, with R, curves, images, certificates and costs.
    """
    if not runs:
        raise SidetuneError("no run given: sidetune report runs")
    if len(runs) == 1 and (runs[0] / SEARCH).is_file() and figure is None:
        return _report_search(runs[0], format)
    shown, summaries = screen(long), _summaries(runs)
    if html is not None:
        from sidetune_core.results.html_report import html_report

        with writing(html):
            write_text(html, html_report(summaries))
        print(one_line(html))
        return 0
    extra = _against(reference, summaries) if reference is not None else ()
    single = len(summaries) == 1 and group_by == "auto"
    if full:
        if not single or figure is not None:
            raise SidetuneError("--full prints R of one run: sidetune report RUN --full")
        print(full_matrix(summaries[0].results, format))
        return 0
    if single and figure is None and format == "text":
        (summary,) = summaries
        spec_line = with_scenario(summary.spec_line, summary.spec.scenario)
        selected = f", {summary.selection}, to select options" if str(summary.selection) else ""
        print(wrapped([f"{one_line(spec_line)}{selected}"], shown) + "\n")
        print(results_lines(summary.results, shown, (*MAIN, *extra)))
        for lines in (anytime_lines(summary), [one_line(line) for line in summary.training]):
            if lines:
                print("\n" + wrapped(lines, shown))
        classes = [*summary.classes, ""] if summary.classes else []
        print("\n" + wrapped([*gap_lines(summary), *classes, *changed_lines(summary)], shown))
        return 0
    methods = group_runs(summary for summary in summaries if summary.ended)
    if group_by == "auto":
        group_by = "method" if any(len(method.runs) > 1 for method in methods) else "run"
    if curve and images:
        raise SidetuneError("--curve and --images draw different figures; use one at a time")
    if (curve or images) and figure is None:
        raise SidetuneError(
            f"--{'curve' if curve else 'images'} needs a file to draw, e.g. --figure report.png"
        )
    if figure is not None:
        from sidetune_core.results import figures

        if single and not curve and not images:
            figures.draw(summaries[0], figure)
            files = [figure]
        else:
            draw: Callable[[Sequence[MethodRuns], Path], None] = figures.draw_methods
            if curve:
                draw = partial(figures.draw_curves, name=curve)
            elif images:
                draw = partial(figures.draw_pictures, task=images)
            files = figures.draw_by_scenario(_drawn(methods, summaries), figure, draw)
        for file in files:
            print(one_line(file))
    elif group_by == "run":
        print(compare_runs(summaries, format, (*COMPARED, *extra), shown))
    else:
        from sidetune_core.results.compare_methods import compare_methods

        metrics = (*COMPARED, *extra)
        print(compare_methods(_complete(methods, summaries), format, metrics, screen=shown))
        if format == "csv":
            _print_left_out(methods)
    return 0


def _report_search(folder: Path, format: Format) -> int:
    """Report a search of options: its trials, the best of them, and the importance of options."""
    if format == "csv":
        raise SidetuneError(
            f"a search is reported as text, markdown or latex; its runs: "
            f"{shlex.join(['sidetune', 'report', str(folder / 'runs'), '--format', 'csv'])}"
        )
    from sidetune_core.sweeps.tuning_report import report_search

    print(printable(report_search(folder, format)))
    return 0


def _summaries(paths: Sequence[Path]) -> list[RunSummary]:
    """The runs that can be read, also those in subfolders; `runs/*` may match other files."""
    summaries, skipped = [], []
    for path in paths:
        below = [] if is_run(path) else runs_below(path)
        for folder in below or [path]:
            try:
                summaries.append(summarise(open_run(folder)))
            except RunError as error:
                if len(paths) == 1 and len(below) < 2:
                    raise
                skipped += [] if path.is_file() and not below else [error]
    for reason in skipped:
        print(f"skipped: {indented(reason)}", file=sys.stderr)
    if not summaries:
        raise SidetuneError("none of these folders holds a run")
    return in_present_names(summaries)


def _against(reference: Path, summaries: Sequence[RunSummary]) -> tuple[Metric]:
    """The metric that a reference adds, provided that it has the tasks and the metric of the runs."""
    joint = summarise(open_run(reference))
    for summary in summaries:
        if not same_stream(in_present_names([joint, summary])):
            raise RunError(
                f"{reference} cannot be a reference for {summary.folder}: env, data, tasks or metric differ"
            )
    return (against(joint),)


def _complete(methods: Sequence[MethodRuns], summaries: Sequence[RunSummary]) -> Sequence[MethodRuns]:
    """The methods; prints the runs that they do not include."""
    for summary in summaries:
        if not summary.ended:
            print(one_line(f"skipped: {summary.folder} is not finished ({summary.status})"), file=sys.stderr)
    for method in methods:
        for run in method.repeats:
            line = f"skipped: {run.folder} repeats seed {run.spec.seed} of {method.name}"
            print(one_line(line), file=sys.stderr)
    if not methods:
        raise SidetuneError("none of these runs is finished; compare them as they are with --group-by run")
    return methods


def _drawn(methods: Sequence[MethodRuns], summaries: Sequence[RunSummary]) -> Sequence[MethodRuns]:
    """The methods that are drawn: those with a run that has not diverged; prints what is left out."""
    complete = _complete(methods, summaries)
    _print_left_out(complete)
    drawn = [method for method in complete if method.averaged]
    if not drawn:
        raise SidetuneError("all of these runs have diverged; sidetune report says why")
    return drawn


def _print_left_out(methods: Sequence[MethodRuns]) -> None:
    for line in left_out(methods):
        print(one_line(line), file=sys.stderr)
