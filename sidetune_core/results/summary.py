"""From a run folder to the record that a report is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from sidetune_core.certificate.record import certificate_lines, read_certificate
from sidetune_core.config.spec import RunSpec, from_values
from sidetune_core.errors import OptionError, RunError
from sidetune_core.results.metrics import Results
from sidetune_core.results.report import TRAINABLE, ChangedTensors, RunSummary
from sidetune_core.storage.run_folder import RunFolder


def summarise(folder: RunFolder) -> RunSummary:
    """Everything that is reported about a run, from its folder alone.

    Raises:
        RunError: the folder is no run, or one of its files is damaged.
    """
    about = folder.read_json("run.json")
    try:
        moved = tuple(
            ChangedTensors(
                str(line["task"]),
                dict(Counter(part_of(str(name)) for name in line["moved"])),
                len(line["kept"]),
            )
            for line in folder.lines("moved.jsonl")
        )
        counts = folder.lines("parameters.jsonl")
        pieces = folder.lines("seconds.jsonl")
        measured = bool(pieces) and all(
            "memory" in piece for piece in pieces
        )  # runs of former versions have the seconds only
        return RunSummary(
            name=folder.path.name,
            spec=_resolved(about["resolved"]),
            spec_line=str(about["composition"]),
            results=read_results(folder),
            moved=moved,
            parameters={
                TRAINABLE: _typical([int(line["trainable"]) for line in counts]),
                "all": int(counts[-1]["all"]),
            }
            if counts
            else {},
            seconds=_finite(sum(piece["seconds"] for piece in pieces)),
            status=folder.status,
            folder=str(folder.path),
            processor_seconds=_finite(sum(piece["processor"] for piece in pieces)) if measured else None,
            peak_memory=max(int(piece["memory"]) for piece in pieces) if measured else None,
            further=_further(folder),
            certified=tuple(certificate_lines(certified)) if (certified := read_certificate(folder)) else (),
        )
    except (KeyError, TypeError, ValueError, OverflowError, OptionError) as error:
        raise RunError(f"the run {folder.path} is damaged: {error!r}") from error


def read_results(folder: RunFolder, split: str = "test") -> Results:
    """R as far as it has been measured on a split.

    Raises:
        RunError: the folder has no ``run.json``, or it is damaged.
        KeyError, TypeError, ValueError: something in it is not what a run writes.
    """
    about = folder.read_json("run.json")
    tasks = [str(task["id"]) for task in about["tasks"]]
    metrics = {task["id"]: task.get("metric", about["metric"]) for task in about["tasks"]}
    cells = [line for line in folder.lines("eval.jsonl") if line["split"] == split]
    rows: dict[int, list[float | None]] = {}
    for line in cells:
        if line["after"] not in range(-1, len(tasks)):
            raise ValueError(f"an evaluation after task {line['after']} of {len(tasks)}")
        row = rows.setdefault(int(line["after"]), [None] * len(tasks))
        row[tasks.index(line["task"])] = _number(line["figures"][metrics[line["task"]]])
    initial = rows.pop(-1, [None] * len(tasks))
    return Results(
        tasks=tuple(tasks),
        rows=tuple(tuple(rows.get(i, [None] * len(tasks))) for i in range(max(rows, default=-1) + 1)),
        initial=tuple(initial),
        metric=str(about["metric"]),
        higher_is_better=bool(about["higher_is_better"]),
    )


def _further(folder: RunFolder) -> dict[str, float]:
    """The figures that every task has at the end of the run, averaged over tasks."""
    last = {
        str(line["task"]): line["figures"]
        for line in folder.lines("eval.jsonl")
        if line["split"] == "test" and line["after"] >= 0
    }
    names = [
        name for name in next(iter(last.values()), {}) if all(name in figures for figures in last.values())
    ]
    return {name: fmean(float(figures[name]) for figures in last.values()) for name in names}


def part_of(tensor: str) -> str:
    """The part that a tensor belongs to: ``base`` for ``base.layer1.0.conv1.weight``, ``heads.t0`` for ``heads.t0.linear.bias``."""
    first, *rest = tensor.split(".")
    return f"{first}.{rest[0]}" if len(rest) > 1 and first.endswith("s") else first


def _resolved(values: object) -> RunSpec:
    spec = from_values(values, "run.json", recorded=True)
    if spec.learner is None or spec.env is None:  # methods are told apart by these
        raise ValueError("the resolved spec names no learner or no env")
    return spec


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} seconds")
    return float(value)


def _typical(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a figure is {value!r}")
    return float(value)
