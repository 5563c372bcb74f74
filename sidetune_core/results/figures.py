"""Plots: R of one run, R and costs of several methods, training curves, and images of a task."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sidetune_core.errors import SidetuneError
from sidetune_core.results.cells import in_percent
from sidetune_core.results.grouping import MethodRuns, same_stream, shared_line
from sidetune_core.results.metrics import Results, average_accuracy, mean, one_unit
from sidetune_core.results.run_summary import TRAINABLE, RunSummary
from sidetune_core.results.scenarios import by_scenario
from sidetune_core.results.significance import half_width
from sidetune_core.results.task_images import task_images
from sidetune_core.results.task_labels import task_labels
from sidetune_core.scenarios import title as scenario_title
from sidetune_core.storage.run_folder import open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANNOTATED = 12
"""Tasks up to which the cells of R have their values, and not a scale of colours."""
TICKS = 20
"""Largest number of tasks that are named on an axis."""
PANELS = 24
"""Tasks up to which each has a panel."""
MEAN = "mean over tasks so far"
COLUMNS = 4
"""Largest number of panels in a row."""


def draw_by_scenario(
    methods: Sequence[MethodRuns], out: Path, draw_group: Callable[[Sequence[MethodRuns], Path], None]
) -> list[Path]:
    """Plot the methods of each scenario to a file of their own, ``NAME-class-incremental.png`` for
    ``NAME.png``, or those of a single one to `out`; plots never mix scenarios.

    Args:
        methods: of one scenario or several.
        out: the file; its suffix selects the format.
        draw_group: plots methods of one scenario.

    Returns:
        The files.
    """
    groups = by_scenario(methods, lambda method: method.runs[0].spec.scenario)
    files = []
    for group in groups:
        scenario = scenario_title(group[0].runs[0].spec.scenario)
        files.append(out.with_stem(f"{out.stem}-{scenario}") if len(groups) > 1 else out)
        draw_group(group, files[-1])
    return files


def draw(summary: RunSummary, out: Path) -> None:
    """Plot a heat map of R; the suffix of `out` selects the format (.png, .svg, .pdf).

    Raises:
        SidetuneError: matplotlib is not installed, or does not support the format.
    """
    _save(heat_map(summary.results, summary.titles, summary.spec_line), out)


def heat_map(results: Results, titles: Sequence[str] = (), title: str = "") -> Figure:
    """R as a heat map, with the titles of tasks on the axes.

    Raises:
        SidetuneError: matplotlib is not installed.
    """
    scale = 100 if in_percent(results) else 1
    rows = [results.initial, *results.rows]
    cells = [[float("nan") if cell is None else scale * cell for cell in row] for row in rows]
    size, labels = len(results.tasks), task_labels(results.tasks, titles)
    annotated = size <= ANNOTATED
    longest = max(map(len, labels))
    figure = _figure(
        max(6.4, 2.6 + 0.62 * size) if annotated else 9.0, 2.4 + 0.42 * len(rows) if annotated else 7.4
    )
    axes = figure.add_subplot()
    measured = [cell for row in cells for cell in row if cell == cell]
    middle = (min(measured) + max(measured)) / 2 if measured else 0.0
    shown = axes.imshow(cells, cmap="viridis" if results.higher_is_better else "viridis_r", aspect="auto")
    for i, row in enumerate(cells if annotated else ()):
        for j, cell in enumerate(row):
            if cell == cell:
                dark = (cell < middle) == results.higher_is_better
                text = f"{cell:.1f}" if scale == 100 else f"{cell:.3g}"
                axes.text(j, i, text, ha="center", va="center", color="w" if dark else "k")
    step = -(-size // TICKS)
    slanted: dict[str, Any] = (
        {} if longest <= 6 else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    )
    axes.set_xticks(range(0, size, step), labels[::step], **slanted)
    after = ["untrained", *(f"after {label}" for label in labels[: len(rows) - 1])]
    axes.set_yticks(range(0, len(rows), step), after[::step])
    if not annotated:
        figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    axes.set_xlabel(f"{results.metric} on task{' (%)' if scale == 100 else ''}")
    axes.set_title(title, fontsize="medium")
    axes.spines[:].set_visible(False)
    return figure


def draw_methods(methods: Sequence[MethodRuns], out: Path) -> None:
    """Plot a panel for the mean over the tasks so far and one for each task, with a line for each method.

    If tasks have different units, there is no mean, and each panel has its own scale. With several seeds, the
    line is their mean, in a band from the worst to the best seed. Runs that have diverged are left out.

    Raises:
        SidetuneError: the methods have different tasks, matplotlib is not installed, or does not support the
            format.
    """
    runs = [run for method in methods for run in method.averaged]
    if not same_stream(runs):
        raise SidetuneError(
            "a plot of several methods needs the same env, data, tasks and metric for all of them; name "
            "fewer runs"
        )
    results = runs[0].results
    percent = all(in_percent(run.results) for run in runs)
    averaged = one_unit(results)
    panels = [(label, index) for index, label in enumerate(_titles(runs[0]))]
    if averaged and len(panels) > PANELS:
        panels = []  # of a long stream, the mean is what can be read
    if averaged:
        panels.insert(0, (MEAN, -1))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = (2.9, 2.1) if len(panels) > 1 else (6.4, 3.6)
    figure = _figure(width * columns, height * rows + 0.4 * (len(methods) // 2 + 1) + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, sharey=averaged, squeeze=False)
    for panel, axes in enumerate(grid.flat):
        if panel >= len(panels):
            axes.set_axis_off()
            continue
        title, task = panels[panel]
        for index, method in enumerate(methods):
            _plot_method(axes, method, task, 100 if percent else 1, index)
        axes.set_title(title, fontsize="medium", fontweight="bold" if task < 0 else None)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if panel + columns >= len(panels):  # the lowest of its column
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("trained tasks")
    grid[0, 0].xaxis.get_major_locator().set_params(integer=True)
    figure.supylabel(f"{results.metric}{' (%)' if percent else ''}", fontsize="medium")
    figure.suptitle(shared_line(methods), fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, out)


def draw_curves(methods: Sequence[MethodRuns], out: Path, name: str) -> None:
    """Plot a curve of ``metrics.jsonl``: a panel for each task, a line for each method.

    With several seeds, the line is their mean, from three seeds on in a band of its 95 % confidence
    interval.

    Raises:
        SidetuneError: a run has no such curve, the methods have different tasks, matplotlib is not installed,
            or does not support the format.
    """
    tasks = methods[0].averaged[0].results.tasks
    if any(run.results.tasks != tasks for method in methods for run in method.averaged):
        raise SidetuneError("curves of several methods need the same tasks for all of them; name fewer runs")
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = _figure(max(5.2, 2.9 * columns), 2.6 * rows + 0.2 * (len(methods) // 2 + 1) + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_axis_off()
    for index, method in enumerate(methods):
        style, curves = _style(index), curves_of(method, name)
        for axes, task in zip(grid.flat, tasks, strict=False):
            points = curves.get(task, [])
            steps = [step for step, _, _ in points]
            means = [center for _, center, _ in points]
            low = [center - half for _, center, half in points]
            high = [center + half for _, center, half in points]
            axes.plot(steps, means, label=method.name, **style)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    for axes, title in zip(grid.flat, _titles(methods[0].averaged[0]), strict=False):
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("training steps")
    figure.supylabel(f"{name} in training", fontsize="medium")
    figure.suptitle(shared_line(methods), fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, out)


def curves_of(method: MethodRuns, name: str) -> dict[str, list[tuple[int, float, float]]]:
    """The training curve of a method, by task: (step, mean over seeds, half-width of its interval).

    The interval is the 95 % confidence interval of the mean. Steps that a seed lacks are left out. The
    half-width is 0 below three seeds.

    Raises:
        SidetuneError: a run has no curve of that name, or no finite value of it.
    """
    runs = [_curves(run, name) for run in method.averaged]
    curves = {}
    for task in runs[0]:
        points = []
        for step in sorted(set.intersection(*(set(run.get(task, {})) for run in runs))):
            values = [run[task][step] for run in runs]
            if (average := mean(values)) is not None:
                points.append((step, average, half_width(values) or 0.0))
        curves[task] = points
    return curves


def _curves(run: RunSummary, name: str) -> dict[str, dict[int, float]]:
    """A training curve of one run, by task and step."""
    curves: dict[str, dict[int, float]] = {}
    names: set[str] = set()
    for line in open_run(Path(run.folder)).lines("metrics.jsonl"):
        names |= line.keys()
        if line.get(name) is not None:
            curves.setdefault(line["task"], {})[line["step"]] = line[name]
    if not curves and name in names:
        raise SidetuneError(f"the curve '{name}' of {run.folder} has no finite value")
    if not curves:
        known = ", ".join(sorted(names - {"task", "step"}))
        raise SidetuneError(f"{run.folder} has no curve '{name}'; known: {known}")
    return curves


def draw_pictures(methods: Sequence[MethodRuns], out: Path, task: str) -> None:
    """Plot the images of a task in a column: input and target (the same for all), then those of each method.

    For a method with several seeds, the first seed is shown.

    Raises:
        SidetuneError: a run has no images of the task, matplotlib is not installed, or does not support the
            format.
    """
    files = [task_images(method.averaged[0], task) for method in methods]
    names = list(dict.fromkeys(name for own in files for name in own))
    shared = [name for name in names if len({own.get(name) for own in files}) == 1]
    rows = [(name, files[0][name]) for name in sorted(shared)]
    for method, own in zip(methods, files, strict=True):
        predictions = sorted(own.keys() - set(shared), reverse=True)  # the prediction, then its error
        rows += [(f"{method.name}\n{name}", own[name]) for name in predictions]
    figure = _figure(8.0, 0.4)  # it reports a missing matplotlib
    from matplotlib.image import imread

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


def draw_costs(methods: Sequence[MethodRuns], out: Path, labelled: Collection[str]) -> None:
    """Plot the average accuracy of methods against their trainable weights per task.

    Bars are 95 % confidence intervals, from three seeds on. Named are the methods in `labelled`, and those
    that are better than all with as many weights or fewer.

    Raises:
        SidetuneError: the tasks have different units, matplotlib is not installed, or does not support the
            format.
    """
    if not all(one_unit(run.results) for method in methods for run in method.runs):
        raise SidetuneError("losses of several tasks have no average to plot; name another table")
    results = methods[0].runs[0].results
    scale, sign = (100 if in_percent(results) else 1), (1 if results.higher_is_better else -1)
    points = []
    for method in methods:
        weights, values = method.runs[0].parameters.get(TRAINABLE), _averages(method)
        if weights and values:
            points.append((weights, scale * fmean(values), scale * (half_width(values) or 0.0), method.name))
    figure = _figure(7.2, 4.4)
    axes = figure.add_subplot()
    best, labels = -math.inf, []
    for weights, value, half, name in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        excels = sign * value > best
        best = max(best, sign * value)
        side = name.startswith(SIDE_TUNING)
        color = "C0" if side else "C1" if name in labelled else "0.6"
        axes.errorbar(weights, value, half or None, marker="o", markersize=4, color=color, capsize=2)
        if excels or name in labelled:
            labels.append((name.removeprefix(SIDE_TUNING), (weights, value), 4 if side else -11))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda weights, _: f"{weights:,.0f}")
    axes.set_xlabel("trainable weights per task")
    axes.set_ylabel(f"average {results.metric}{' (%)' if scale == 100 else ''}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.12, 0.08)
    for label, color in (("side-tuning", "C0"), ("baselines", "C1"), ("other baselines", "0.6")):
        axes.plot([], [], "o", markersize=4, color=color, label=label)
    axes.legend(loc="lower left", frameon=False, fontsize="small")
    figure.suptitle(shared_line(methods), fontsize="medium")
    _label(axes, labels)
    _save(figure, out)


def _label(axes: Any, labels: Sequence[tuple[str, tuple[float, float], int]]) -> None:
    """Write labels to the left of their points, some points above (or below) them, and clear of others."""
    axes.figure.draw_without_rendering()
    taken: list[Any] = []
    for text, point, height in labels:
        place = {"textcoords": "offset points", "ha": "right", "fontsize": "x-small"}
        label = axes.annotate(text, point, (-5, height), **place)
        while any(label.get_window_extent().overlaps(box) for box in taken):
            height += int(math.copysign(9, height))
            label.set_position((-5, height))
        taken.append(label.get_window_extent())


def _averages(method: MethodRuns) -> list[float]:
    """The average accuracy of each seed; none where one is undefined."""
    values = [average_accuracy(run.results) for run in method.averaged]
    return [] if None in values else [value for value in values if value is not None]


SIDE_TUNING = "side-tuning, "
"""What the names of its variants in the ledger begin with."""


def _plot_method(axes: Any, method: MethodRuns, task: int, scale: int, index: int) -> None:
    """Plot a method on a task, or on the mean over the tasks trained so far if `task` is -1."""
    points = []
    for after in range(max(task, 0), len(method.averaged[0].results.rows)):
        values = []
        for run in method.averaged:
            row = run.results.rows[after]
            cells = row[: after + 1] if task < 0 else row[task : task + 1]
            values.append(mean(None if cell is None else scale * cell for cell in cells))
        measured = [value for value in values if value is not None]
        if (average := mean(values)) is not None:
            points.append((after + 1, average, min(measured), max(measured)))
    x, y, low, high = ([point[i] for point in points] for i in range(4))
    style = _style(index)
    axes.plot(x, y, marker="o", markersize=2.5, label=method.name, **style)
    if len(x) > 1:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    else:
        axes.vlines(x, low, high, color=style["color"], alpha=0.4)


def _titles(run: RunSummary) -> list[str]:
    """The titles of panels."""
    return task_labels(run.results.tasks, run.titles, 28)


def _style(index: int) -> dict[str, str]:
    """The line style of the method with this index."""
    return {"color": f"C{index % 10}", "linestyle": ("-", "--", ":", "-.")[index // 10 % 4]}


def _figure(width: float, height: float) -> Figure:
    """An empty figure, size in inches, without pyplot: no global state, no display."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SidetuneError("plots need matplotlib: pip install 'sidetune[figure]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, out: Path) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two dollar signs is no formula
    try:
        figure.savefig(out, dpi=150)
    except ValueError as error:
        raise SidetuneError(f"cannot plot to {out}: {str(error).splitlines()[0]}") from error
