"""From a run folder to the record that a report is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from sidetune_core import certificate
from sidetune_core.errors import OptionError, RunError
from sidetune_core.report import TRAINABLE, Moved, RunSummary
from sidetune_core.runs import RunFolder
from sidetune_core.spec import RunSpec, from_values


def summarise(folder: RunFolder) -> RunSummary:
    """Everything that is reported about a run, from its folder alone.

    Raises:
        RunError: the folder is no run, or one of its files is damaged.
    """
    about = folder.read_json("run.json")
    try:
        moved = tuple(
            Moved(
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
            results=folder.results(),
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
            certified=tuple(certificate.lines(certified)) if (certified := certificate.read(folder)) else (),
        )
    except (KeyError, TypeError, ValueError, OverflowError, OptionError) as error:
        raise RunError(f"the run {folder.path} is damaged: {error!r}") from error


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
    spec = from_values(values, "run.json")
    if spec.learner is None or spec.env is None:  # methods are told apart by these
        raise ValueError("the resolved spec names no learner or no env")
    return spec


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} seconds")
    return float(value)


def _typical(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]
