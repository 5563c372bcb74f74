"""Read a run folder into the summary that reports are made of."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.report_lines import certificate_lines
from sidetune_core.config.extensions import extension_lines
from sidetune_core.config.history import network_line
from sidetune_core.config.plugin_record import read_segments, recorded_changes, segment_lines
from sidetune_core.config.selection import read_selection
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values
from sidetune_core.errors import OptionError, RunError
from sidetune_core.io.printable import counted
from sidetune_core.results.anytime import Curves, make_curves
from sidetune_core.results.class_report import class_lines
from sidetune_core.results.metrics import Results, mean
from sidetune_core.results.run_data import read_run_data
from sidetune_core.results.run_summary import TRAINABLE, ChangedTensors, RunSummary
from sidetune_core.results.scenarios import confusion_lines
from sidetune_core.results.within_report import training_lines
from sidetune_core.scenarios import DEFAULT, task_aware
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.evaluations import UNCHANGED_SINCE, Evaluations, read_evaluations
from sidetune_core.storage.run_files import DATA, DOCUMENTS, STORED, WITHIN
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.status import DIVERGED, DONE, UNKNOWN, has_diverged
from sidetune_core.storage.within import read_within

T = TypeVar("T")

Cost = tuple[float, float | None, int | None, float | None]
"""Seconds, processor seconds, peak memory in bytes and joules; runs of earlier versions have the seconds
only, and few machines know the joules."""

NO_COST: Cost = (0.0, None, None, None)


def summarise(folder: RunFolder) -> RunSummary:
    """The summary of a run, from its folder alone. Only ``run.json`` and R must be whole; other damaged files
    are named and left out.

    Raises:
        RunError: the folder is not a run, or one of these is damaged.
    """
    about = folder.read_json("run.json")
    left_out: list[str] = []

    def optional(name: str, read: Callable[[], T], default: T) -> T:
        try:
            return read()
        except (RunError, KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError) as error:
            reason = str(error) if isinstance(error, RunError) else repr(error)
            left_out.append(reason if name in reason else f"{name} is damaged: {reason}")
            return default

    seconds, processor, memory, energy = optional("seconds.jsonl", lambda: _cost(folder), NO_COST)
    try:
        evaluations = read_evaluations(folder, strict=True)  # a line that is skipped would be a gap in R
        status = optional("status", lambda: folder.status, UNKNOWN)
        if trained := _trained(folder, status, len(about["tasks"])):
            _check_rows(folder, about, evaluations, trained)
        selection = read_selection(about)
        measure = selection.measure
        results, gaps = _results(about, evaluations), _gaps(about, evaluations)
        spec = _resolved(about["resolved"])
        known = None if spec.scenario == DEFAULT else _results(about, evaluations, with_task_id=True)
        return RunSummary(
            name=folder.path.name,
            spec=spec,
            spec_line=str(about["composition"]),
            results=results,
            changed=optional("moved.jsonl", lambda: _changed(folder), ()),
            parameters=optional("parameters.jsonl", lambda: _parameters(folder), {}),
            seconds=seconds,
            status=_diverged(gaps) if status == DONE and gaps else status,
            folder=str(folder.path),
            processor_seconds=processor,
            peak_memory=memory,
            gaps=tuple(map(str, gaps)),
            other_metrics=_final_metrics(evaluations, measure),
            certificate=optional("certificate.json", lambda: _certified(folder, about, known or results), ()),
            cache_bytes_per_example=_estimate(about, "cache_bytes_per_example"),
            step_of_fine_tuning=_estimate(about, "step_of_fine_tuning"),
            plugins=read_segments(about)[0].plugins,
            plugin_changes=tuple(recorded_changes(about)),
            extensions=tuple(extension_lines(about)),
            network=network_line(about),
            carried=optional("eval.jsonl", lambda: _carried(evaluations, results), ()),
            unchanged=_unchanged(evaluations, results, measure),
            classes=optional(DOCUMENTS, lambda: class_lines(folder, results, measure), ()),
            with_task_id=known,
            task_confusions=optional(DOCUMENTS, lambda: confusion_lines(folder, results, measure), ()),
            data=optional(DATA, lambda: read_run_data(about, read_data(folder)), ()),
            stored=optional(STORED, lambda: _stored(folder), {}),
            energy=energy,
            curves=optional(WITHIN, lambda: _curves(folder, about), None),
            training=optional(WITHIN, lambda: training_lines(read_within(folder)), ()),
            titles=tuple(str(task.get("title", task["id"])) for task in about["tasks"]),
            left_out=tuple(left_out),
            selection=selection,
        )
    except (KeyError, TypeError, ValueError, OverflowError, OptionError) as error:
        raise RunError(f"the run {folder.path} is damaged: {error!r}") from error


def _estimate(about: Mapping[str, Any], name: str) -> float | None:
    """What was known of the cost of a task before the run; None if it was not."""
    value = dict(about.get("task_cost", ())).get(name)
    return None if value is None else float(value)


def _certified(folder: RunFolder, about: Mapping[str, Any], results: Results) -> tuple[str, ...]:
    """The certificate in lines, as far as R does not contradict it."""
    certificate = read_certificate(folder)
    if certificate is None:
        return ()
    missing = [(None,) * len(results.tasks)] * (len(certificate.trained) - len(results.rows))
    rows = [*results.rows, *missing]
    whole = dict(zip(results.tasks, zip(*rows, strict=True), strict=True)) if rows else {}
    columns = {record.id: whole[record.id][record.after - 1 :] for record in certificate.tasks}
    lines = certificate_lines(certificate, segment_lines(read_segments(about)), columns)
    if lines and results.metric != str(about["metric"]):
        lines = ["The certificate is about predictions with the task id.", *lines]
    return tuple(lines)


def _carried(evaluations: Evaluations, results: Results) -> tuple[str, ...]:
    """The values that an earlier version carried over, in a line for each row that they are from."""
    cells: dict[int, tuple[set[int], set[str]]] = {}
    for line in evaluations.lines:
        if UNCHANGED_SINCE in line:
            rows, tasks = cells.setdefault(int(line[UNCHANGED_SINCE]), (set(), set()))
            rows.add(int(line["after"]))
            tasks.add(str(line["task"]))
    return tuple(
        f"values of {_span([task for task in results.tasks if task in tasks])} in "
        f"{counted(len(rows), 'row')} ({_span([results.tasks[row] for row in sorted(rows)])}) were carried "
        f"over from row {results.tasks[since]}: nothing that these tasks read has changed since"
        for since, (rows, tasks) in sorted(cells.items())
    )


def _unchanged(evaluations: Evaluations, results: Results, measure: str) -> str:
    """How many values of R are those of the row before, in a sentence; empty if none is."""
    positions = {task: index for index, task in enumerate(results.tasks)}
    measured = {
        (line["after"], line["task"])
        for line in evaluations.lines
        if line["split"] == measure and positions[line["task"]] < line["after"]
    }
    earlier = sum(range(len(results.rows)))
    rows = [row for row in evaluations.unchanged if 0 < row < len(results.rows)]
    carried = sum(rows) - sum(row in evaluations.unchanged for row, _ in measured)
    if not carried:
        return ""
    return (
        f"{carried:,} of {counted(earlier, 'value')} of earlier tasks in R are those of the row before, "
        "because nothing that these tasks read had changed; the others were measured"
    )


def _span(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def _changed(folder: RunFolder) -> tuple[ChangedTensors, ...]:
    return tuple(_changed_tensors(line) for line in folder.lines("moved.jsonl", strict=True))


def _parameters(folder: RunFolder) -> dict[str, int]:
    counts = folder.lines("parameters.jsonl", strict=True)
    if not counts:
        return {}
    trainable = _median([int(line["trainable"]) for line in counts])
    return {TRAINABLE: trainable, "all": int(counts[-1]["all"])}


def _cost(folder: RunFolder) -> Cost:
    periods = folder.lines("seconds.jsonl", strict=True)
    seconds = _finite(sum(period["seconds"] for period in periods))
    if not periods or any("memory" not in period for period in periods):
        return seconds, None, None, None
    unknown = any(period.get("energy") is None for period in periods)
    energy = None if unknown else _finite(sum(period["energy"] for period in periods))
    processor = _finite(sum(period["processor"] for period in periods))
    return seconds, processor, max(int(period["memory"]) for period in periods), energy


def _stored(folder: RunFolder) -> dict[str, int]:
    """The bytes by kind after the latest task of which they were counted."""
    lines = folder.lines(STORED, strict=True)
    return {name: int(size) for name, size in lines[-1].items() if name != "task"} if lines else {}


def read_results(folder: RunFolder, split: str | None = None) -> Results:
    """R so far, on a split; None for that of the run.

    Raises:
        RunError: the folder has no ``run.json``, or it is damaged.
        KeyError, TypeError, ValueError: a file has unexpected contents.
    """
    return _results(folder.read_json("run.json"), read_evaluations(folder), split)


def _results(
    about: Mapping[str, Any],
    evaluations: Evaluations,
    split: str | None = None,
    with_task_id: bool = False,
) -> Results:
    """R; of predictions `with_task_id`, where a run has both."""
    split = split or read_selection(about).measure
    tasks = [str(task["id"]) for task in about["tasks"]]
    metrics = {task["id"]: task.get("metric", about["metric"]) for task in about["tasks"]}
    if with_task_id:
        metrics = {id: task_aware(metric) for id, metric in metrics.items()}
    for line in evaluations.lines:
        if line["split"] == split and line["after"] not in range(-1, len(tasks)):
            raise ValueError(f"an evaluation after task {line['after']} of {len(tasks)}")
        if line["task"] not in metrics:
            raise ValueError(f"an evaluation of task {line['task']}, which the run does not have")
    for after in evaluations.unchanged:
        if after not in range(1, len(tasks)):
            raise ValueError(f"unchanged values after task {after} of {len(tasks)}")
    rows = evaluations.rows(tasks, split, lambda line: _as_float(line["figures"][metrics[line["task"]]]))
    initial = rows.pop(-1, [None] * len(tasks))
    count = max(rows, default=-1) + 1
    return Results(
        tasks=tuple(tasks),
        rows=tuple(tuple(rows.get(index, [None] * len(tasks))) for index in range(count)),
        initial=tuple(initial),
        metric=task_aware(str(about["metric"])) if with_task_id else str(about["metric"]),
        higher_is_better=bool(about["higher_is_better"]),
    )


def check_rows(folder: RunFolder, trained: int) -> None:
    """Check that R has a row for each stage of the first tasks, with the tasks that were trained by then.

    A stage of one task each is known from its checkpoint or from a cell of its row; joint training has one
    stage.

    Args:
        folder: of the run.
        trained: number of tasks; 0 for none.

    Raises:
        RunError: a row or a cell is missing, or ``run.json`` is damaged.
    """
    _check_rows(folder, folder.read_json("run.json"), read_evaluations(folder), trained)


def _check_rows(folder: RunFolder, about: Mapping[str, Any], evaluations: Evaluations, trained: int) -> None:
    try:
        tasks = [str(task["id"]) for task in about["tasks"]]
        rows = evaluations.rows(tasks, read_selection(about).measure, lambda line: True)
        known = folder.boundaries | {int(row) + 1 for row in rows} | {trained}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"the run {folder.path} is damaged: {error!r}") from error
    for count in sorted(count for count in known if 0 < count <= trained):
        row = rows.get(count - 1, [None] * len(tasks))[:count]
        missing = [task for task, cell in zip(tasks, row, strict=False) if not cell]
        if missing:
            what = "row" if len(missing) == count else f"value of {', '.join(missing)}"
            raise RunError(
                f"the run {folder.path} is damaged: R has no {what} for the state after training "
                f"{tasks[count - 1]}; lines of eval.jsonl are missing. Restore them from a copy"
            )


def _curves(folder: RunFolder, about: Mapping[str, Any]) -> Curves | None:
    metrics = {str(task["id"]): str(task.get("metric", about["metric"])) for task in about["tasks"]}
    evaluations = read_within(folder).evaluations
    return make_curves(list(metrics), metrics, bool(about["higher_is_better"]), evaluations)


def _trained(folder: RunFolder, status: str, tasks: int) -> int:
    """The number of tasks whose rows a run must have: all if it is over, 0 if training ended before."""
    if status == DONE or (tasks in folder.boundaries and (has_diverged(status) or status == UNKNOWN)):
        return tasks
    return 0


@attrs.frozen
class Gap:
    """An evaluation without the metric of its task."""

    task: str
    after: str
    """Id of the task trained last; empty before any training."""
    split: str
    reason: str

    def __str__(self) -> str:
        when = f"after training {self.after}" if self.after else "untrained"
        return f"{self.task}, {when}, split {self.split}: {self.reason}"


def read_gaps(folder: RunFolder) -> list[Gap]:
    """The evaluations whose metric is not a finite number, on every split.

    Raises:
        RunError: the folder has no ``run.json``, or it is damaged.
        KeyError, TypeError, ValueError: a file has unexpected contents.
    """
    return _gaps(folder.read_json("run.json"), read_evaluations(folder))


def _gaps(about: Mapping[str, Any], evaluations: Evaluations) -> list[Gap]:
    metrics = {task["id"]: task.get("metric", about["metric"]) for task in about["tasks"]}
    ids = [*metrics, ""]
    return [
        Gap(line["task"], ids[line["after"]], line["split"], line.get("not_finite", "it is not finite"))
        for line in evaluations.lines
        if line["figures"][metrics[line["task"]]] is None
    ]


def outcome(folder: RunFolder) -> str:
    """The status of a run that has come to its end: ``done``, or ``diverged: …`` if R or a metric of another
    split has gaps that are not finite.

    Raises:
        RunError: R lacks rows or cells.
    """
    about, evaluations = folder.read_json("run.json"), read_evaluations(folder)
    _check_rows(folder, about, evaluations, len(about["tasks"]))
    gaps = _gaps(about, evaluations)
    return _diverged(gaps) if gaps else DONE


def _diverged(gaps: Sequence[Gap]) -> str:
    more = f", and {len(gaps) - 1} more" if len(gaps) > 1 else ""
    return f"{DIVERGED}: {gaps[0]}{more}"


def _changed_tensors(line: Mapping[str, Any]) -> ChangedTensors:
    """A line of ``moved.jsonl``."""
    counts = Counter(component_of(str(name)) for name in line["moved"])
    kept = line["kept"]
    number = len(kept) if isinstance(kept, list) else operator.index(kept)  # earlier versions listed names
    return ChangedTensors(str(line["task"]), dict(counts), number)


def _final_metrics(evaluations: Evaluations, measure: str) -> dict[str, float]:
    """The metrics that every task has at the end of the run, averaged over tasks; without those with gaps."""
    final: dict[str, Mapping[str, Any]] = {}
    for line in evaluations.lines:
        if line["split"] == measure and line["after"] >= 0:
            final[str(line["task"])] = line["figures"]
    first = next(iter(final.values()), {})
    names = [name for name in first if all(name in metrics for metrics in final.values())]
    values = {name: [metrics[name] for metrics in final.values()] for name in names}
    means = {name: mean(column) for name, column in values.items()}
    return {name: average for name, average in means.items() if average is not None}


def component_of(tensor: str) -> str:
    """The component of a tensor: ``base`` of ``base.conv1.weight``, ``heads.t0`` of ``heads.t0.bias``"""
    first, *rest = tensor.split(".")
    return f"{first}.{rest[0]}" if len(rest) > 1 and first.endswith("s") else first


def _resolved(values: object) -> RunSpec:
    spec = from_values(values, "run.json", recorded=True)
    if spec.learner is None or spec.env is None:  # both identify a method
        raise ValueError("the resolved spec has no learner or no env")
    return spec


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} seconds")
    return float(value)


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _as_float(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise TypeError(f"a metric has the value {value!r}")
    return float(value)
