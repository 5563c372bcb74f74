"""Metrics of the evaluations within tasks: what happens to earlier tasks while a later one is trained.

`A_i(n)` is the metric of task i at evaluation n, in order; those of a stage are of the tasks trained by its
end. Where lower is better, the worst value is the largest, and the stability gap changes sign, so that it is
never negative. A metric is None where it is undefined: too few tasks, or a value that was not measured.

Sources: De Lange et al., "Continual evaluation for lifelong learning: Identifying the stability gap", ICLR
2023; Caccia et al., "New insights on reducing abrupt representation change in online continual learning",
ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.results.metrics import Row, have_one_unit, mean


@attrs.frozen
class Point:
    """The evaluations after a step."""

    stage: int
    """Number of the stage that is trained, from 0."""
    step: int
    """Of the stage; 0 is before its first one."""
    row: Row
    """A value for each task of the run; None for those that were not measured."""


@attrs.frozen
class Curves:
    """The evaluations within the tasks of a run whose tasks are trained one after another."""

    tasks: tuple[str, ...]
    points: tuple[Point, ...]
    """In order."""
    higher_is_better: bool

    def worst(self, cells: Sequence[float | None]) -> float | None:
        """The worst of some values; None if one is missing, or there is none."""
        known = [cell for cell in cells if cell is not None]
        if not known or len(known) < len(cells):
            return None
        return min(known) if self.higher_is_better else max(known)

    @property
    def stages(self) -> int:
        """Number of stages so far."""
        return max((point.stage for point in self.points), default=-1) + 1


def average_minimum_accuracy(curves: Curves) -> float | None:
    """min-ACC = mean_{i<T-1} min_n A_i(n), over the evaluations n after the end of task i's training: the
    absolute worst case of earlier tasks (De Lange et al. 2023).
    """
    return mean(
        curves.worst([point.row[task] for point in _after_training(curves, task)])
        for task in range(curves.stages - 1)
    )


def worst_case_accuracy(curves: Curves) -> float | None:
    """WC-ACC = A_{T-1}(last) / T + (1 - 1/T) min-ACC: the plasticity of the last task against the stability
    of the others (De Lange et al. 2023).
    """
    count = curves.stages
    if not count:
        return None
    last = curves.points[-1].row[count - 1]
    if count == 1 or last is None:
        return last
    lowest = average_minimum_accuracy(curves)
    return None if lowest is None else last / count + (1 - 1 / count) * lowest


def average_anytime_accuracy(curves: Curves) -> float | None:
    """AAA = mean_n mean_{i<=k(n)} A_i(n), over all evaluations n after a first step; k(n) is the stage of n.
    How good the learner is at any time, not only between tasks (Caccia et al. 2022).
    """
    return mean(mean(point.row[: point.stage + 1]) for point in curves.points if point.step)


def stability_gap(curves: Curves) -> float | None:
    """The drop of an earlier task within a stage that is recovered by its end, averaged over all stages k > 0
    and tasks i < k: min(A_i(before), A_i(after)) - min_n A_i(n), with n from before the first step of stage k
    to after its last one.

    De Lange et al. (2023) name the gap and plot it; this is its depth without what is lost for good, so that
    a value that falls and stays has a gap of 0.
    """
    gaps = []
    for stage in range(1, curves.stages):
        points = [point for point in curves.points if point.stage == stage]
        for task in range(stage):
            column = [point.row[task] for point in points]
            lowest, ends = curves.worst(column), curves.worst([column[0], column[-1]])
            gaps.append(None if lowest is None or ends is None else abs(ends - lowest))
            if points[0].step:  # there is no evaluation before the first step
                gaps[-1] = None
    return mean(gaps)


@attrs.frozen
class AnytimeMetric:
    """A metric of `Curves`."""

    name: str
    symbol: str
    convention: str
    meaning: str
    function: Callable[[Curves], float | None]


ANYTIME = (
    AnytimeMetric(
        "average anytime accuracy",
        "AAA",
        "Caccia 2022",
        "mean of all evaluations of the tasks so far",
        average_anytime_accuracy,
    ),
    AnytimeMetric(
        "average minimum accuracy",
        "min-ACC",
        "De Lange 2023",
        "mean of each earlier task's worst evaluation",
        average_minimum_accuracy,
    ),
    AnytimeMetric(
        "worst-case accuracy",
        "WC-ACC",
        "De Lange 2023",
        "last task's last evaluation, and the worst of the others",
        worst_case_accuracy,
    ),
    AnytimeMetric(
        "stability gap",
        "SG",
        "after De Lange 2023",
        "drop within a later task that is recovered by its end",
        stability_gap,
    ),
)


def make_curves(
    tasks: Sequence[str],
    metrics: Mapping[str, str],
    higher_is_better: bool,
    lines: Sequence[Mapping[str, Any]],
) -> Curves | None:
    """The curves of a run; None if it has none, trains tasks jointly, or has metrics of several units.

    Args:
        tasks: ids in the order of training.
        metrics: the metric of R of each.
        higher_is_better: its direction.
        lines: evaluations of ``within.jsonl`` (see `storage.within`); of two after the same step, the later
            one is that of the weights that were kept.

    Raises:
        KeyError, TypeError, ValueError: a line has other keys or types.
    """
    if not lines or not have_one_unit([metrics[task] for task in tasks]):
        return None
    positions = {task: index for index, task in enumerate(tasks)}
    rows: dict[tuple[int, int], list[float | None]] = {}
    for line in lines:
        stage = int(line["trained"])
        if line["stage"] != tasks[stage]:
            return None  # several tasks are trained at once
        row = rows.setdefault((stage, int(line["step"])), [None] * len(tasks))
        value = line["metrics"].get(metrics[line["task"]])
        row[positions[line["task"]]] = None if value is None else float(value)
    points = tuple(Point(stage, step, tuple(row)) for (stage, step), row in sorted(rows.items()))
    return Curves(tuple(tasks), points, higher_is_better)


def _after_training(curves: Curves, task: int) -> list[Point]:
    """The evaluations after the end of a task's training, without that of the same weights."""
    return [point for point in curves.points if point.stage > task and (point.step or point.stage > task + 1)]
