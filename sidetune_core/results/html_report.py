"""The report of one run, or of several, as one HTML file: what a reader without sidetune can open."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sidetune_core import __version__
from sidetune_core.errors import RunError, SidetuneError
from sidetune_core.io.printable import counted
from sidetune_core.results.cells import (
    format_int,
    format_metric,
    format_value,
    in_percent,
    time_text,
    with_unit,
)
from sidetune_core.results.compare_methods import method_table
from sidetune_core.results.compare_runs import COMPARED, run_table
from sidetune_core.results.grouping import MethodRuns, group_runs, same_stream, shared_line
from sidetune_core.results.html_charts import LEGEND, Line, heat_map, line_chart
from sidetune_core.results.html_page import (
    bullets,
    cards,
    escaped,
    folded,
    long_list,
    page,
    paragraphs,
    section,
    table,
)
from sidetune_core.results.metrics import (
    FURTHER,
    MAIN,
    Metric,
    Results,
    average_accuracy,
    forgetting,
    mean,
    meaningful,
    one_unit,
)
from sidetune_core.results.report import changed_lines, cost_lines, gap_lines, scenario_lines
from sidetune_core.results.run_summary import TRAINABLE, RunSummary
from sidetune_core.results.scenarios import by_scenario
from sidetune_core.results.task_images import task_images, tasks_with_images
from sidetune_core.results.task_labels import task_labels
from sidetune_core.scenarios import title
from sidetune_core.storage.run_folder import open_run

POINTS = 200
"""Points of a training curve that are drawn."""
CURVES = 12
"""Tasks whose training curves are drawn."""
IMAGE_TASKS = 12
"""Tasks whose images are in the file."""
IMAGE_BYTES = 12 * 2**20
"""Size of all images in the file."""


def html_report(summaries: Sequence[RunSummary]) -> str:
    """The report of a run, or a comparison of several with the report of each below."""
    if len(summaries) == 1:
        (summary,) = summaries
        head = [f"<h1>{escaped(summary.name)}</h1>", _lead(f"{_scenario(summary)} · {summary.spec_line}")]
        return page(f"{summary.name} · sidetune", [*head, *_run(summary), _origin(summaries)])
    return page("Comparison · sidetune", _comparison(summaries))


def html_summary(summary: RunSummary) -> str:
    """Composition, metrics and R of a run, as a part of a page of others: a notebook."""
    return "\n".join(
        [
            f"<p>{escaped(f'{_scenario(summary)} · {summary.spec_line}')}</p>",
            _metrics(summary.results, MAIN),
            heat_map(summary.results, summary.titles),
            f"<p>{escaped(summary.folder)}</p>",
        ]
    )


def _comparison(summaries: Sequence[RunSummary]) -> list[str]:
    shared = shared_line(group_runs(summaries))
    body = ["<h1>Comparison</h1>", _lead(f"{counted(len(summaries), 'run')} · {shared}")]
    groups = by_scenario(summaries, lambda run: run.spec.scenario)
    for group in groups:
        body += _compared(group, f", {_scenario(group[0])}" if len(groups) > 1 else "")
    body += [
        folded(f"{summary.name}: {summary.spec_line}", *_run(summary, is_one=False)) for summary in summaries
    ]
    return [*body, _origin(summaries)]


def _compared(summaries: Sequence[RunSummary], of: str) -> list[str]:
    """The tables and the chart of runs of one scenario, which `of` names at the end of their titles."""
    ended = [method for method in group_runs(run for run in summaries if run.ended) if method.averaged]
    comparable = len(ended) > 0 and same_stream([run for method in ended for run in method.runs])
    parts = []
    if comparable and any(len(method.runs) > 1 for method in ended):
        rows, notes = method_table(ended, COMPARED)
        parts.append(section(f"Methods{of}", table(rows, sortable=True), _note(notes)))
    rows = run_table(summaries, COMPARED)
    parts.append(section(f"Runs{of}", table(rows, left={0, 1, len(rows[0]) - 1}, sortable=True)))
    if comparable:
        parts.append(section(f"Metric over the stream{of}", _stream_chart(ended)))
    return parts


def _run(summary: RunSummary, is_one: bool = True) -> list[str]:
    """The sections of a run; of one of several, without curves of training and images."""
    results = summary.results
    parts = [_cards(summary), _problems(summary)]
    rows = heat_map(results, summary.titles)
    parts.append(
        section(
            "Results",
            f'<p class="note">{escaped(_how_to_read(results))}</p>',
            rows,
            *([_note(scenario_lines(summary))] if summary.with_task_id is not None else []),
            folded("All metrics and their definitions", _metrics(results, MAIN + FURTHER)),
        )
    )
    if is_one:
        stream = line_chart(_task_lines(summary), "trained tasks", _metric_title(results), whole=True)
        loss = _training_chart(summary)
        parts.append(section("Curves", f'<div class="charts">{stream}{loss}</div>' if stream or loss else ""))
        parts.append(section("Images", _images(summary)))
    parts.append(section("Classes", long_list("All", bullets(summary.classes), len(summary.classes))))
    changed = changed_lines(summary)
    listed = long_list("All", paragraphs(changed), len(changed))
    parts.append(section("What changed, and the certificate", listed))
    parts.append(section("Training", bullets(summary.training)))
    parts.append(section("Cost", table([["cost", "amount"], *cost_lines(summary)])))
    parts.append(section("Composition", _composition(summary)))
    return parts


def _cards(summary: RunSummary) -> str:
    results = summary.results
    shown: list[tuple[str, str, str]] = []
    if one_unit(results):
        several = len(results.tasks) > 1
        over = f"mean of {len(results.tasks)} tasks at the end" if several else results.tasks[0]
        value = with_unit(results.metric, average_accuracy(results))
        shown.append((f"{'average ' if several else ''}{results.metric}", value, over))
    if forgetting(results) is not None and one_unit(results):
        (metric,) = (one for one in MAIN if one.function is forgetting)
        shown.append(("forgetting", _one_decimal(results, metric), metric.meaning))
    if (trained := summary.parameters.get(TRAINABLE)) is not None:
        total = summary.parameters.get("all")
        note = f"of {format_int(total)} parameters at the end" if total else "parameters"
        shown.append(("trained per task", format_int(trained), note))
    progress = f"{len(results.rows)} of {counted(len(results.tasks), 'task')} trained"
    shown.append(("time", time_text(summary.seconds), progress))
    return cards(shown)


def _one_decimal(results: Results, metric: Metric) -> str:
    percent = metric.unitless or in_percent(results)
    return format_value(metric.function(results), percent, 1) + (" %" if percent else "")


def _problems(summary: RunSummary) -> str:
    lines = [*gap_lines(summary), *(f"left out: {line}" for line in summary.left_out)]
    status = [] if summary.ended else [f"The run is not finished: {summary.status}."]
    return section("Please note", bullets([*status, *lines]))


def _metrics(results: Results, metrics: Sequence[Metric]) -> str:
    rows = [
        [metric.title(results.metric), format_metric(results, metric), metric.meaning, metric.convention]
        for metric in meaningful(metrics, [results])
    ]
    return table([["metric", "value", "definition", "source"], *rows], left={0, 2, 3})


def _task_lines(summary: RunSummary) -> list[Line]:
    """Each task over the stream, and the mean of the tasks so far."""
    results = summary.results
    if len(results.tasks) < 2:
        return []
    scale = 100 if in_percent(results) else 1
    lines = [
        Line(label, [(row + 1, scale * cell) for row, cell in _column(results, task)], task + 1)
        for task, label in enumerate(task_labels(results.tasks, summary.titles, 28))
    ]
    if len(lines) >= LEGEND:
        lines = []  # of a long stream, the mean is what can be read
    if one_unit(results):
        lines.append(Line("mean of the tasks so far", _means(results, scale), 0, bold=True))
    return lines


def _column(results: Results, task: int) -> list[tuple[int, float]]:
    cells = [(row, results.rows[row][task]) for row in range(task, len(results.rows))]
    return [(row, cell) for row, cell in cells if cell is not None]


def _means(results: Results, scale: int) -> list[tuple[float, float]]:
    means = [(row + 1, mean(cells)) for row, cells in enumerate(results.trained)]
    return [(row, scale * value) for row, value in means if value is not None]


def _stream_chart(methods: Sequence[MethodRuns]) -> str:
    """The mean of the tasks so far: a line for each method, averaged over its seeds."""
    results = methods[0].runs[0].results
    if not one_unit(results) or len(results.tasks) < 2:
        return ""
    scale = 100 if all(in_percent(run.results) for method in methods for run in method.runs) else 1
    lines = []
    for number, method in enumerate(methods):
        columns = [dict(_means(run.results, scale)) for run in method.averaged]
        shared = sorted(set.intersection(*map(set, columns)))
        points = [(row, mean(column[row] for column in columns)) for row in shared]
        lines.append(Line(method.name, [(row, value) for row, value in points if value is not None], number))
    many = _note([f"{len(lines)} methods; the pointer names a line."]) if len(lines) > LEGEND else ""
    title = f"mean {_metric_title(results)} of the tasks so far"
    return many + line_chart(lines, "trained tasks", title, whole=True)


def _training_chart(summary: RunSummary) -> str:
    """The training loss of each task, or the return where there is none."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with suppress(RunError, OSError, ValueError):
        for line in open_run(Path(summary.folder)).lines("metrics.jsonl"):
            for name in ("mean_loss", "return"):
                if isinstance(line.get(name), int | float):
                    points = curves.setdefault(name, {}).setdefault(str(line["task"]), [])
                    points.append((float(line["step"]), float(line[name])))
    name = next((name for name in ("return", "mean_loss") if name in curves), "")
    labels = dict(
        zip(summary.results.tasks, task_labels(summary.results.tasks, summary.titles, 28), strict=True)
    )
    lines = [
        Line(labels.get(task, task), _thinned(points), number + 1)
        for number, (task, points) in enumerate(curves.get(name, {}).items())
        if number < CURVES
    ]
    shown = f"{name.replace('_', ' ')} in training"
    has_curve = any(len(line.points) > 1 for line in lines)
    return line_chart(lines, "steps of the task", shown) if has_curve else ""


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // POINTS)
    return [*points[:-1:step], *points[-1:]] if step > 1 else [*points]


def _images(summary: RunSummary) -> str:
    """The images that the run keeps of its tasks."""
    blocks, size = [], 0
    owners = tasks_with_images(summary)
    for task in owners[:IMAGE_TASKS]:
        files: Mapping[str, bytes] = {}
        with suppress(SidetuneError, OSError):
            files = task_images(summary, task)
        size += sum(map(len, files.values()))
        if not files or size > IMAGE_BYTES:
            continue
        pictures = "".join(_picture(name, data) for name, data in files.items())
        blocks.append(f'<h3>{escaped(task)}</h3>\n<div class="images">{pictures}</div>')
    if len(blocks) < len(owners):
        blocks.append(f'<p class="note">{len(owners) - len(blocks)} more in {escaped(summary.folder)}</p>')
    return "\n".join(blocks)


def _picture(name: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f'<img alt="{escaped(name)}" src="{source}">'
    return f'<div class="image">{image}<small>{escaped(name)}</small></div>'


def _composition(summary: RunSummary) -> str:
    rows = [["component", "name", "options"]]
    for slot in ("base", "side", "merger", "learner", "env"):
        if (chosen := summary.spec.component(slot)) is not None:
            options = ", ".join(f"{name} = {_shown(value)}" for name, value in chosen.options.items())
            rows.append([slot, chosen.name, options])
    for name, values in summary.spec.tables.items():
        rows.append([name, "", ", ".join(f"{key} = {_shown(value)}" for key, value in values.items())])
    rows.append(["seed", str(summary.spec.seed), ""])
    return folded("All components and options", table(rows, left={0, 1, 2}))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _metric_title(results: Results) -> str:
    return f"{results.metric}{' (%)' if in_percent(results) else ''}"


def _how_to_read(results: Results) -> str:
    better = "higher" if results.higher_is_better else "lower"
    return f"Row i, column j: {_metric_title(results)} on task j after training task i; {better} is better."


def _scenario(summary: RunSummary) -> str:
    return title(summary.spec.scenario)


def _lead(text: str) -> str:
    return f'<p class="lead">{escaped(text)}</p>'


def _note(lines: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escaped(line)}</p>' for line in lines)


def _origin(summaries: Sequence[RunSummary]) -> str:
    commands = "sidetune verify RUN checks the certificate and every file of a run."
    return _note([f"Made by sidetune {__version__} from {counted(len(summaries), 'run folder')}. {commands}"])
