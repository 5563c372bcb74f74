"""Pictures of R: what each task scored after each task, of one run or of several methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sidetune_core.errors import SidetuneError
from sidetune_core.methods import Method, same_stream, shared_line
from sidetune_core.metrics import one_unit
from sidetune_core.report import RunSummary, in_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # of panels


def draw(summary: RunSummary, out: Path) -> None:
    """Write a heat map of R; the suffix of `out` says the format (.png, .svg, .pdf).

    Raises:
        SidetuneError: matplotlib is not installed, or does not know the format.
    """
    results = summary.results
    scale = 100 if in_percent(results) else 1
    rows = [results.initial, *results.rows]
    cells = [[float("nan") if cell is None else scale * cell for cell in row] for row in rows]
    size = len(results.tasks)
    figure = _figure(max(6.4, 2.6 + 0.62 * size), 1.9 + 0.42 * len(rows))
    axes = figure.add_subplot()
    known = [cell for row in cells for cell in row if cell == cell]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    axes.imshow(cells, cmap="viridis" if results.higher_is_better else "viridis_r", aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell == cell:
                dark = (cell < middle) == results.higher_is_better
                axes.text(j, i, f"{cell:.1f}" if scale == 100 else f"{cell:.3g}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(size), results.tasks)
    axes.set_yticks(range(len(rows)), ["untrained", *(f"after {task}" for task in results.tasks[: len(rows) - 1])])
    axes.set_xlabel(f"{results.metric} on task{' (%)' if scale == 100 else ''}")
    axes.set_title(summary.spec_line, fontsize="medium")
    axes.spines[:].set_visible(False)
    _save(figure, out)


def draw_methods(methods: Sequence[Method], out: Path) -> None:
    """Write a grid of panels, a line for each method: the mean over the tasks learnt so far, then each task from when it was learnt on.

    Where tasks have figures of different units, there is no mean, and each panel has a scale of its own. Where a method has several
    seeds, the line is their mean, in a band from the worst to the best of them.

    Raises:
        SidetuneError: the methods were measured on different tasks, matplotlib is not installed, or does not know the format.
    """
    runs = [run for method in methods for run in method.runs]
    if not same_stream(runs):
        raise SidetuneError("a figure of several methods needs the same env, tasks and metric for all of them; name fewer runs")
    results = runs[0].results
    percent = all(in_percent(run.results) for run in runs)
    averaged = one_unit(results)
    panels = [*([("mean over tasks so far", -1)] if averaged else []), *((task, place) for place, task in enumerate(results.tasks))]
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    figure = _figure(2.9 * across, 2.1 * down + 0.4 * (len(methods) // 2 + 1) + 0.4)
    grid = figure.subplots(down, across, sharex=True, sharey=averaged, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        title, task = panels[number]
        for place, method in enumerate(methods):
            _line(axes, method, task, 100 if percent else 1, place)
        axes.set_title(title, fontsize="medium", fontweight="bold" if task < 0 else None)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if number + across >= len(panels):  # none below it
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("tasks learnt")
    grid[0, 0].xaxis.get_major_locator().set_params(integer=True)
    figure.supylabel(f"{results.metric}{' (%)' if percent else ''}", fontsize="medium")
    figure.suptitle(shared_line(methods), fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, out)


def _line(axes: Any, method: Method, task: int, scale: int, place: int) -> None:
    """One method on a task; on the mean of the tasks learnt so far where `task` is -1."""
    points = []
    for after in range(max(task, 0), len(method.runs[0].results.rows)):
        rows = [run.results.rows[after] for run in method.runs]
        cells = [list(row[: after + 1]) if task < 0 else [row[task]] for row in rows]
        known = [[scale * cell for cell in row if cell is not None] for row in cells]
        if all(len(row) == len(whole) for row, whole in zip(known, cells, strict=True)):
            figures = [fmean(row) for row in known]
            points.append((after + 1, fmean(figures), min(figures), max(figures)))
    x, y, low, high = ([point[i] for point in points] for i in range(4))
    style = {"color": f"C{place % 10}", "linestyle": ("-", "--", ":", "-.")[place // 10 % 4]}
    axes.plot(x, y, marker="o", markersize=2.5, label=method.name, **style)
    if len(x) > 1:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    else:
        axes.vlines(x, low, high, color=style["color"], alpha=0.4)


def _figure(width: float, height: float) -> Figure:
    """An empty figure in inches, without pyplot: nothing global, no display."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SidetuneError("a figure needs matplotlib: pip install 'sidetune[figure]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, out: Path) -> None:
    try:
        figure.savefig(out, dpi=150)
    except ValueError as error:
        raise SidetuneError(f"cannot draw to {out}: {str(error).splitlines()[0]}") from error
