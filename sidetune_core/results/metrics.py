"""The matrix of results R, and the figures that the literature computes from it.

`R[i][j]` is the metric on task j after training task i, counted from 0. The same word stands for different numbers in different
code bases (the forgetting of one and the same matrix ranges from 0.03 to 0.15), so each function here states its formula and
its source, and `METRICS` carries the source along for whoever prints the figure.

Every function takes the tasks *trained so far*: in the formulas T is the number of rows, not the number of tasks, so a run under
way is read as the shorter stream it has been until now. A figure is None where it is not defined: no rows yet, a single row where
earlier tasks are needed, or a cell that the formula needs and nobody measured. A gap is never filled and never skipped.

Where lower is better, averages stay as measured, and differences change sign: positive forgetting always means that it got worse,
positive backward transfer that it got better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import attrs

Row = tuple[float | None, ...]

MIXED = "result"
"""The metric of results in which tasks have different ones: no column may call a loss an accuracy."""


@attrs.frozen
class Results:
    """The matrix R of one run, complete or under way.

    Raises ValueError where the rows do not fit the tasks.
    """

    tasks: tuple[str, ...]  # ids, in the order of training
    rows: tuple[
        Row, ...
    ]  # rows[i][j]: metric on task j after training task i; None where not measured, normally for j > i
    initial: Row  # the row of an untrained learner, "row -1"
    metric: str  # the name, e.g. "accuracy" (a share in [0, 1]); `MIXED` where tasks have several
    higher_is_better: bool

    def __attrs_post_init__(self) -> None:
        if len(self.rows) > len(self.tasks):
            raise ValueError(
                f"{len(self.rows)} rows of results for {len(self.tasks)} tasks; there is one row per task trained"
            )
        for name, row in [
            ("the initial row", self.initial),
            *((f"row {i}", row) for i, row in enumerate(self.rows)),
        ]:
            if len(row) != len(self.tasks):
                raise ValueError(f"{name} of the results has {len(row)} cells for {len(self.tasks)} tasks")

    @property
    def trained(self) -> tuple[Row, ...]:
        """The lower triangle with its diagonal: row i holds the i + 1 tasks learnt by then."""
        return tuple(row[: i + 1] for i, row in enumerate(self.rows))

    @property
    def measured(self) -> tuple[float, ...]:
        """Every number there is, the initial row first."""
        return tuple(cell for row in (self.initial, *self.rows) for cell in row if cell is not None)


def have_one_unit(metrics: Sequence[str]) -> bool:
    """Whether figures of tasks that are measured by these metrics, one for each task, may be averaged.

    Losses of several tasks may differ in unit and scale, such as L1 and nats, and so may figures of different names.
    """
    return len(metrics) == 1 or (len(set(metrics)) == 1 and not {"loss", MIXED}.intersection(metrics))


def one_unit(results: Results) -> bool:
    """Whether figures of different tasks may be averaged (see `have_one_unit`)."""
    return have_one_unit([results.metric] * len(results.tasks))


def mean(cells: Iterable[float | None]) -> float | None:
    """The mean; None of nothing, and None where one is None."""
    numbers: list[float] = []
    for cell in cells:
        if cell is None:
            return None
        numbers.append(cell)
    return fmean(numbers) if numbers else None


def average_accuracy(results: Results) -> float | None:
    """ACC = mean_j R[T-1][j], over the tasks learnt (GEM: Lopez-Paz & Ranzato 2017)."""
    return mean(cell for row in results.trained[-1:] for cell in row)


def average_incremental_accuracy(results: Results) -> float | None:
    """mean_i mean_{j<=i} R[i][j]: ACC after each task, averaged (iCaRL: Rebuffi et al. 2017)."""
    return mean(mean(row) for row in results.trained)


def learning_accuracy(results: Results) -> float | None:
    """LA = mean_j R[j][j]: each task just after it was learnt, also called plasticity (MER: Riemer et al. 2019)."""
    return mean(row[-1] for row in results.trained)


def forgetting(results: Results) -> float | None:
    """F = mean_{j<T-1} (max_{l<T-1} R[l][j] - R[T-1][j]) (RWalk: Chaudhry et al. 2018).

    The maximum leaves the last row out, so F is negative where tasks got better than they ever were. Rows l < j, from before the
    task was learnt, count where they were measured. Where lower is better: mean (R[T-1][j] - min_l R[l][j]).
    """
    return mean(_forgotten(results, task) for task in range(len(results.rows) - 1))


def relative_forgetting(results: Results) -> float | None:
    """mean_{j<T-1} of what `forgetting` averages, as a share of the best figure before the last row: 0.5 for a loss half as large again.

    It has no unit, so that it may be averaged over tasks whose figures differ in theirs. None where a best figure is 0 or below.
    """
    return mean(_share_forgotten(results, task) for task in range(len(results.rows) - 1))


def backward_transfer(results: Results) -> float | None:
    """BWT = mean_{j<T-1} (R[T-1][j] - R[j][j]), negative where tasks got worse (GEM: Lopez-Paz & Ranzato 2017).

    Where lower is better: mean (R[j][j] - R[T-1][j]).
    """
    return mean(_transferred(results, task) for task in range(len(results.rows) - 1))


def triangle_accuracy(results: Results) -> float | None:
    """A = the mean of the lower triangle with its diagonal: sum_{i>=j} R[i][j] / (T (T+1) / 2) (Díaz-Rodríguez et al. 2018)."""
    return mean(cell for row in results.trained for cell in row)


def backward_transfer_all_pairs(results: Results) -> float | None:
    """Mean of R[i][j] - R[j][j] over all i > j (Díaz-Rodríguez et al. 2018). Where lower is better, with the sign turned."""
    pairs = ((row, task) for place, row in enumerate(results.rows) for task in range(place))
    return mean(_gain(results, row[task], results.rows[task][task]) for row, task in pairs)


def forward_transfer(results: Results) -> float | None:
    """FWT = mean_{j>=1} (R[j-1][j] - b[j]) with b the untrained row (GEM: Lopez-Paz & Ranzato 2017).

    The core measures R[j-1][j] with the head of task j just made: with a head for each task it says little, with one head a lot.
    """
    return mean(
        _gain(results, results.rows[task - 1][task], results.initial[task]) for task in _later(results)
    )


def forward_transfer_without_baseline(results: Results) -> float | None:
    """Mean_{j>=1} R[j-1][j], as in code bases that leave b out (Díaz-Rodríguez et al. 2018, Continuum)."""
    return mean(results.rows[task - 1][task] for task in _later(results))


def first_minus_last(results: Results) -> float | None:
    """Mean_{j<T-1} (R[j][j] - R[T-1][j]), called forgetting by Avalanche: the negative of GEM's backward transfer."""
    transfer = backward_transfer(results)
    return None if transfer is None else -transfer


def clipped_forgetting(results: Results) -> float | None:
    """Forgetting whose maximum includes the last row, so that no task counts below 0 (Mammoth, PyCIL)."""
    return mean(
        None if (lost := _forgotten(results, task)) is None else max(lost, 0.0)
        for task in range(len(results.rows) - 1)
    )


def worst_case(results: Results) -> float | None:
    """Mean over tasks of the worst figure at any later task boundary: min-ACC (De Lange et al. 2023), seen at boundaries only."""
    worst = min if results.higher_is_better else max
    columns = ([row[task] for row in results.rows[task + 1 :]] for task in range(len(results.rows) - 1))
    return mean(
        None if None in column else worst(cell for cell in column if cell is not None) for column in columns
    )


def intransigence(results: Results, reference: Row) -> float | None:
    """Mean_k (a*_k - R[k][k]): how much a task is learnt worse than by a reference without constraints (RWalk: Chaudhry et al. 2018).

    `reference` holds a*_k, one figure for each task; there it is of joint training on the tasks up to k.
    """
    return mean(
        _gain(results, best, results.rows[task][task])
        for task, best in enumerate(reference[: len(results.rows)])
    )


def relative_intransigence(results: Results, reference: Row) -> float | None:
    """Mean_k of what `intransigence` averages, as a share of a*_k: 0.5 for a loss half as large again. None where a*_k is 0 or below."""
    lost = [
        _gain(results, best, results.rows[task][task])
        for task, best in enumerate(reference[: len(results.rows)])
    ]
    return mean(_share(one, best) for one, best in zip(lost, reference, strict=False))


def exactly_constant(results: Results) -> bool:
    """Whether, for each j, all measured R[i][j] with i >= j are the same number, bit for bit: nothing was forgotten.

    0.0 and -0.0 differ, and NaN is no number. True where no task was measured twice, for then nothing says otherwise.
    """
    columns = (
        {cell.hex() for row in results.rows[j:] if (cell := row[j]) is not None}
        for j in range(len(results.tasks))
    )
    return all(len(bits) <= 1 and "nan" not in bits for bits in columns)


@attrs.frozen
class Metric:
    """A figure computed from R, and the convention it follows, for headers."""

    name: str  # "forgetting"
    symbol: str  # "F"
    convention: str  # the paper whose definition this is: "Chaudhry 2018"
    meaning: str  # in a few words, true in either direction of the underlying metric
    function: Callable[[Results], float | None]
    unitless: bool = False  # a share, which may be averaged over tasks whose figures differ in unit

    def title(self, metric: str) -> str:
        """The name for results in `metric`: "average accuracy" reads "average l1" for a matrix of l1."""
        return self.name.replace("accuracy", metric)


MAIN = (
    Metric("average accuracy", "ACC", "GEM 2017", "mean of the last row", average_accuracy),
    Metric(
        "average incremental accuracy",
        "AIA",
        "iCaRL 2017",
        "mean of the means of all rows",
        average_incremental_accuracy,
    ),
    Metric("learning accuracy", "LA", "MER 2019", "mean of the diagonal", learning_accuracy),
    Metric("forgetting", "F", "Chaudhry 2018", "how much worse than the best earlier row", forgetting),
    Metric(
        "backward transfer", "BWT", "GEM 2017", "how much better than when just learnt", backward_transfer
    ),
)


RELATIVE_FORGETTING = Metric(
    "relative forgetting",
    "F",
    "after Chaudhry 2018",
    "how much worse than the best earlier row, as a share of it",
    relative_forgetting,
    unitless=True,
)

FURTHER = (
    RELATIVE_FORGETTING,
    Metric(
        "lower triangle accuracy", "A", "Díaz-Rodríguez 2018", "mean of the lower triangle", triangle_accuracy
    ),
    Metric(
        "backward transfer, all pairs",
        "BWT",
        "Díaz-Rodríguez 2018",
        "as above, over every later row",
        backward_transfer_all_pairs,
    ),
    Metric(
        "forward transfer",
        "FWT",
        "GEM 2017",
        "how much better than untrained, just before learning",
        forward_transfer,
    ),
    Metric(
        "forward transfer, no baseline",
        "FWT",
        "Continuum",
        "as above, without the untrained row",
        forward_transfer_without_baseline,
    ),
    Metric(
        "forgetting, first - last", "F", "Avalanche", "how much worse than when just learnt", first_minus_last
    ),
    Metric("forgetting, clipped", "F", "Mammoth", "as Chaudhry's, no task below 0", clipped_forgetting),
    Metric("worst accuracy", "min-ACC", "De Lange 2023", "mean of each task's worst later row", worst_case),
)
"""What other papers and code bases call by the same names."""


def meaningful(metrics: Sequence[Metric], every: Iterable[Results]) -> tuple[Metric, ...]:
    """Those of some metrics that mean something for all of these results.

    Where tasks have figures of different units, these are forgetting as a share, and what else has no unit.
    """
    if all(one_unit(results) for results in every):
        return tuple(metrics)
    return (
        RELATIVE_FORGETTING,
        *(metric for metric in metrics if metric.unitless and metric != RELATIVE_FORGETTING),
    )


def _later(results: Results) -> range:
    """The tasks that were measured just before they were learnt, if all went well."""
    return range(1, len(results.rows))


def _gain(results: Results, after: float | None, before: float | None) -> float | None:
    """How much better `after` is than `before`."""
    return None if after is None or before is None else _goodness(results, after) - _goodness(results, before)


def _forgotten(results: Results, task: int) -> float | None:
    """What `forgetting` averages: how far the last row is worse on `task` than the best of the rows before."""
    return _gain(results, _best_before(results, task), results.rows[-1][task])


def _share_forgotten(results: Results, task: int) -> float | None:
    """The same as a share of that best."""
    return _share(_forgotten(results, task), _best_before(results, task))


def _share(lost: float | None, best: float | None) -> float | None:
    """A difference as a share of what it is a difference from; None where that is 0 or below."""
    return None if best is None or lost is None or best <= 0 else lost / best


def _best_before(results: Results, task: int) -> float | None:
    """The best figure on `task` of all rows but the last; None where one since it was learnt was not measured."""
    column = [row[task] for row in results.rows]
    if None in column[task:]:
        return None
    best = max if results.higher_is_better else min
    return best(cell for cell in column[:-1] if cell is not None)


def _transferred(results: Results, task: int) -> float | None:
    """What `backward_transfer` averages: how far the last row is better on `task` than the row that learnt it."""
    return _gain(results, results.rows[-1][task], results.rows[task][task])


def _goodness(results: Results, cell: float) -> float:
    """The cell, turned round where lower is better."""
    return cell if results.higher_is_better else -cell
