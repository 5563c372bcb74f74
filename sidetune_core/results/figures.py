"""Figures of R, which is what each task scored after each task, of one run or of several methods; of training; of a task's pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sidetune_core.errors import SidetuneError
from sidetune_core.results.grouping import MethodRuns, same_stream, shared_line
from sidetune_core.results.metrics import one_unit
from sidetune_core.results.report import RunSummary, in_percent
from sidetune_core.results.significance import half_width
from sidetune_core.storage.run_folder import PICTURES, open_run

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
                axes.text(
                    j,
                    i,
                    f"{cell:.1f}" if scale == 100 else f"{cell:.3g}",
                    ha="center",
                    va="center",
                    color="w" if dark else "k",
                )
    axes.set_xticks(range(size), results.tasks)
    axes.set_yticks(
        range(len(rows)), ["untrained", *(f"after {task}" for task in results.tasks[: len(rows) - 1])]
    )
    axes.set_xlabel(f"{results.metric} on task{' (%)' if scale == 100 else ''}")
    axes.set_title(summary.spec_line, fontsize="medium")
    axes.spines[:].set_visible(False)
    _save(figure, out)


def draw_methods(methods: Sequence[MethodRuns], out: Path) -> None:
    """Write a grid of panels, a line for each method: the mean over the tasks learnt so far, then each task from when it was learnt on.

    Where tasks have figures of different units, there is no mean, and each panel has a scale of its own. Where a method has several
    seeds, the line is their mean, in a band from the worst to the best of them.

    Raises:
        SidetuneError: the methods were measured on different tasks, matplotlib is not installed, or does not know the format.
    """
    runs = [run for method in methods for run in method.runs]
    if not same_stream(runs):
        raise SidetuneError(
            "a figure of several methods needs the same env, tasks and metric for all of them; name fewer runs"
        )
    results = runs[0].results
    percent = all(in_percent(run.results) for run in runs)
    averaged = one_unit(results)
    panels = [
        *([("mean over tasks so far", -1)] if averaged else []),
        *((task, place) for place, task in enumerate(results.tasks)),
    ]
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


def draw_curves(methods: Sequence[MethodRuns], name: str, out: Path) -> None:
    """Write a panel for each task and in it a line for each method: a figure of training (``metrics.jsonl``) over the steps of the task.

    Where a method has several seeds, the line is their mean, in a band of the 95 % t interval of the mean.

    Raises:
        SidetuneError: a run has no such figure, tasks are others, matplotlib is not installed, or does not know the format.
    """
    tasks = methods[0].runs[0].results.tasks
    if any(run.results.tasks != tasks for method in methods for run in method.runs):
        raise SidetuneError("curves of several methods need the same tasks for all of them; name fewer runs")
    across = min(COLUMNS, len(tasks))
    down = -(-len(tasks) // across)
    figure = _figure(max(5.2, 2.9 * across), 2.6 * down + 0.2 * (len(methods) // 2 + 1) + 0.6)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_axis_off()
    for place, method in enumerate(methods):
        style, curves = _style(place), curves_of(method, name)
        for axes, task in zip(grid.flat, tasks, strict=False):
            steps, means, spread = ([point[i] for point in curves.get(task, [])] for i in range(3))
            low, high = (
                [mean + sign * half for mean, half in zip(means, spread, strict=True)] for sign in (-1, 1)
            )
            axes.plot(steps, means, label=method.name, **style)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    for axes, task in zip(grid.flat, tasks, strict=False):
        axes.set_title(task, fontsize="medium")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("steps of training")
    figure.supylabel(f"{name} in training", fontsize="medium")
    figure.suptitle(shared_line(methods), fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, out)


def curves_of(method: MethodRuns, name: str) -> dict[str, list[tuple[int, float, float]]]:
    """A figure of training for each task: steps at which all seeds have it, their mean, and half of its 95 % t interval (0 for one seed).

    Raises:
        SidetuneError: a run has none of that name.
    """
    runs = [_curves(run, name) for run in method.runs]
    found = {}
    for task in runs[0]:
        steps = sorted(set.intersection(*(set(run.get(task, {})) for run in runs)))
        figures = [[run[task][step] for run in runs] for step in steps]
        found[task] = [
            (step, fmean(some), half_width(some) or 0.0) for step, some in zip(steps, figures, strict=True)
        ]
    return found


def _curves(run: RunSummary, name: str) -> dict[str, dict[int, float]]:
    """A figure of the training of one run, by task and step."""
    found: dict[str, dict[int, float]] = {}
    known: set[str] = set()
    for line in open_run(Path(run.folder)).lines("metrics.jsonl"):
        known |= line.keys()
        if line.get(name) is not None:
            found.setdefault(line["task"], {})[line["step"]] = line[name]
    if not found:
        raise SidetuneError(
            f"{run.folder} has no curve '{name}'; known: {', '.join(sorted(known - {'task', 'step'}))}"
        )
    return found


def draw_pictures(methods: Sequence[MethodRuns], task: str, out: Path) -> None:
    """Write the pictures of a task under each other: first those that all methods share, input and target, then those of each method.

    Of a method with several seeds, the first one's are shown.

    Raises:
        SidetuneError: a run has no pictures of the task, matplotlib is not installed, or does not know the format.
    """
    found = [_pictures(method.runs[0], task) for method in methods]
    names = list(dict.fromkeys(name for pictures in found for name in pictures))
    shared = [name for name in names if len({pictures.get(name) for pictures in found}) == 1]
    rows = [(name, found[0][name]) for name in sorted(shared)]
    for method, pictures in zip(methods, found, strict=True):
        own = sorted(pictures.keys() - set(shared), reverse=True)  # the prediction, then its error
        rows += [(f"{method.name}\n{name}", pictures[name]) for name in own]
    figure = _figure(8.0, 0.4)
    from matplotlib.image import imread  # there is one by now

    images = [(label, imread(io.BytesIO(data))) for label, data in rows]
    height, width = images[0][1].shape[:2]
    figure.set_size_inches(8.0, 0.4 + len(images) * 6.0 * height / width)
    grid = figure.subplots(len(images), 1, squeeze=False)
    for axes, (label, image) in zip(grid.flat, images, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation="horizontal", ha="right", va="center", fontsize="small")
    figure.suptitle(f"{shared_line(methods)} · {task}", fontsize="medium")
    _save(figure, out)


def _pictures(run: RunSummary, task: str) -> dict[str, bytes]:
    """The PNG files of a task in the folder of a run, by name.

    Raises:
        SidetuneError: there is none.
    """
    found = {}
    known = set()
    for path in sorted((Path(run.folder) / PICTURES).glob("*.*.png")):
        owner, name, _ = path.name.rsplit(".", 2)
        known.add(owner)
        if owner == task:
            found[name] = path.read_bytes()
    if not found:
        there = f"it has some of {', '.join(sorted(known))}" if known else "it has none at all"
        raise SidetuneError(f"{run.folder} has no pictures of task '{task}'; {there}")
    return found


def _line(axes: Any, method: MethodRuns, task: int, scale: int, place: int) -> None:
    """One method on a task; on the mean of the tasks learnt so far where `task` is -1."""
    points = []
    for after in range(max(task, 0), len(method.runs[0].results.rows)):
        rows = [run.results.rows[after] for run in method.runs]
        cells = [list(row[: after + 1]) if task < 0 else [row[task]] for row in rows]
        known = [[scale * cell for cell in row if cell is not None] for row in cells]
        if all(len(row) == len(format_int) for row, format_int in zip(known, cells, strict=True)):
            figures = [fmean(row) for row in known]
            points.append((after + 1, fmean(figures), min(figures), max(figures)))
    x, y, low, high = ([point[i] for point in points] for i in range(4))
    style = _style(place)
    axes.plot(x, y, marker="o", markersize=2.5, label=method.name, **style)
    if len(x) > 1:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    else:
        axes.vlines(x, low, high, color=style["color"], alpha=0.4)


def _style(place: int) -> dict[str, str]:
    """Of the line of a method, by its place among them."""
    return {"color": f"C{place % 10}", "linestyle": ("-", "--", ":", "-.")[place // 10 % 4]}


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
