"""The result matrix R and the continual-learning metrics computed from it.

`R[i][j]` is the metric of task j after training task i, counted from 0. The same name stands for different
metrics in different code bases (the forgetting of one matrix ranges from 0.03 to 0.15), so each function
states its formula and its source, and `Metric.convention` carries the source into every table.

Every function takes the tasks *trained so far*: in the formulas T is the number of rows, not the number of
tasks, so an unfinished run is evaluated as the shorter stream that it has been so far. A metric is None where
it is undefined: no rows yet, a single row where earlier tasks are needed, or a required cell that is a
gap: not measured, or not a finite number. Gaps are never filled and never skipped.

Where lower is better, averages stay as measured, and differences change sign: positive forgetting always
means a decline, positive backward transfer an improvement.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import attrs

from sidetune_core.config.history import MIXED as MIXED

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Row = tuple[float | None, ...]


def _with_gaps(row: Sequence[float | None]) -> Row:
    """A row of R with None for each cell that is not a finite number."""
    if all(map(math.isfinite, [cell for cell in row if cell is not None])):
        return tuple(row)
    return tuple(cell if cell is not None and math.isfinite(cell) else None for cell in row)


def _rows_with_gaps(rows: Sequence[Sequence[float | None]]) -> tuple[Row, ...]:
    return tuple(_with_gaps(row) for row in rows)


@attrs.frozen
class Results:
    """The matrix R of one run, complete or unfinished. A cell that is NaN or infinite becomes None: no metric
    is computed from it.

    Raises:
        ValueError: the rows do not fit the tasks.
    """

    tasks: tuple[str, ...]
    """Task ids, in the order of training."""
    rows: tuple[Row, ...] = attrs.field(converter=_rows_with_gaps)
    """``rows[i][j]``: metric of task j after training task i; None if not measured, normally for j > i."""
    initial: Row = attrs.field(converter=_with_gaps)
    """The row of the untrained learner, "row -1"."""
    metric: str
    """The metric's name, e.g. "accuracy" (in [0, 1]); `MIXED` if tasks have different metrics."""
    higher_is_better: bool

    def __attrs_post_init__(self) -> None:
        if len(self.rows) > len(self.tasks):
            raise ValueError(
                f"{len(self.rows)} rows of results for {len(self.tasks)} tasks; expected one row per trained "
                "task"
            )
        rows = [("the initial row", self.initial), *((f"row {i}", row) for i, row in enumerate(self.rows))]
        for name, row in rows:
            if len(row) != len(self.tasks):
                raise ValueError(f"{name} of the results has {len(row)} cells for {len(self.tasks)} tasks")

    def __repr__(self) -> str:
        """What was measured, in a line."""
        from sidetune_core.results.cells import in_percent
        from sidetune_core.results.report import one_line

        trained = f"{len(self.rows)} of {len(self.tasks)} tasks trained"
        values = f"; {one_line(self, in_percent(self))}" if self.rows else ""
        return f"<Results: {trained}{values}>"

    def _repr_html_(self) -> str:
        """R as a heat map, for notebooks."""
        from sidetune_core.results.html_charts import heat_map

        return heat_map(self)

    def to_pandas(self, per: Literal["matrix", "task"] = "matrix") -> pandas.DataFrame:
        """R as a table, or a row for each task.

        Args:
            per: ``matrix``: a row for the untrained learner and for each trained task, a column for each
                task; ``task``: the value of each task before its training, after it, and at the end.

        Raises:
            SidetuneError: pandas is not installed.
        """
        from sidetune_core.results.frames import matrix_frame, task_frame

        return matrix_frame(self) if per == "matrix" else task_frame(self)

    def plot(self) -> Figure:
        """R as a heat map, a matplotlib plot.

        Raises:
            SidetuneError: matplotlib is not installed.
        """
        from sidetune_core.results.figures import heat_map

        return heat_map(self)

    @property
    def trained(self) -> tuple[Row, ...]:
        """The lower triangle with its diagonal: row i has the i + 1 tasks trained by then."""
        return tuple(row[: i + 1] for i, row in enumerate(self.rows))

    @property
    def learnt(self) -> tuple[Row, ...]:
        """The former name of `trained`."""
        warnings.warn(
            "Results.learnt is now Results.trained; the old name is removed in 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.trained

    @property
    def measured(self) -> tuple[float, ...]:
        """All measured cells, the initial row first."""
        return tuple(cell for row in (self.initial, *self.rows) for cell in row if cell is not None)

    @cached_property
    def in_unit_range(self) -> bool:
        """Whether all measured cells are in [0, 1]."""
        for row in (self.initial, *self.rows):
            cells = [cell for cell in row if cell is not None]
            if cells and not 0 <= min(cells) <= max(cells) <= 1:
                return False
        return True


def have_one_unit(metrics: Sequence[str]) -> bool:
    """Whether values of these metrics, one for each task, may be averaged.

    Losses of several tasks may differ in unit and scale, such as L1 and nats, and so may different metrics.
    """
    return len(metrics) == 1 or (len(set(metrics)) == 1 and not {"loss", MIXED}.intersection(metrics))


def one_unit(results: Results) -> bool:
    """Whether results of different tasks may be averaged (see `have_one_unit`)."""
    return have_one_unit([results.metric] * len(results.tasks))


def mean(cells: Iterable[float | None]) -> float | None:
    """The mean; None if there is no cell, if any is None, or if it is too large for a float."""
    values: list[float] = []
    for cell in cells:
        if cell is None:
            return None
        values.append(cell)
    try:
        average = fmean(values) if values else math.nan
    except OverflowError:  # of the sum
        return None
    return average if math.isfinite(average) else None


def average_accuracy(results: Results) -> float | None:
    """ACC = mean_j R[T-1][j], over the trained tasks (GEM: Lopez-Paz & Ranzato 2017)."""
    return mean(cell for row in results.trained[-1:] for cell in row)


def average_incremental_accuracy(results: Results) -> float | None:
    """mean_i mean_{j<=i} R[i][j]: ACC after each task, averaged (iCaRL: Rebuffi et al. 2017)."""
    return mean(mean(row) for row in results.trained)


def learning_accuracy(results: Results) -> float | None:
    """LA = mean_j R[j][j]: each task right after its training, or plasticity (MER: Riemer et al. 2019)."""
    return mean(row[-1] for row in results.trained)


def forgetting(results: Results) -> float | None:
    """F = mean_{j<T-1} (max_{j<=l<T-1} R[l][j] - R[T-1][j]) (RWalk: Chaudhry et al. 2018).

    The paper defines a_{k,j} for j <= k, so the maximum is over the rows from the task's own training on, and
    it excludes the last row: F is negative if tasks are better than ever since. Where lower is better:
    mean (R[T-1][j] - min_{j<=l<T-1} R[l][j]).
    """
    return mean(_forgotten(results, task) for task in range(len(results.rows) - 1))


def forgetting_any_row(results: Results) -> float | None:
    """Forgetting whose maximum is over all rows before the last, also those before the task's own training.

    mean_{j<T-1} (max_{l<T-1} R[l][j] - R[T-1][j]), the formula of RWalk (Chaudhry et al. 2018) read
    literally, as code bases with a full R compute it. A task that was worse after its training than before
    counts as forgotten, though nothing was. Of the cells above the diagonal those that were measured count.
    """
    return mean(_forgotten_since_any_row(results, task) for task in range(len(results.rows) - 1))


def relative_forgetting(results: Results) -> float | None:
    """`forgetting`, each term divided by the best value since training: 0.5 for a loss that grew by half.

    It has no unit, so it may be averaged over tasks with different units. None if a best value is 0 or
    negative.
    """
    return mean(_relatively_forgotten(results, task) for task in range(len(results.rows) - 1))


def backward_transfer(results: Results) -> float | None:
    """BWT = mean_{j<T-1} (R[T-1][j] - R[j][j]), negative if tasks got worse (GEM: Lopez-Paz & Ranzato 2017).

    Where lower is better: mean (R[j][j] - R[T-1][j]).
    """
    return mean(_transferred(results, task) for task in range(len(results.rows) - 1))


def triangle_accuracy(results: Results) -> float | None:
    """A = sum_{i>=j} R[i][j] / (T (T+1) / 2), the mean of the lower triangle (Díaz-Rodríguez et al. 2018)."""
    return mean(cell for row in results.trained for cell in row)


def backward_transfer_all_pairs(results: Results) -> float | None:
    """Mean of R[i][j] - R[j][j] over all i > j (Díaz-Rodríguez et al. 2018).

    Where lower is better: mean of R[j][j] - R[i][j].
    """
    pairs = ((row, task) for index, row in enumerate(results.rows) for task in range(index))
    return mean(_gain(results, row[task], results.rows[task][task]) for row, task in pairs)


def forward_transfer(results: Results) -> float | None:
    """FWT = mean_{j>=1} (R[j-1][j] - b[j]) with b the untrained row (GEM: Lopez-Paz & Ranzato 2017).

    R[j-1][j] is measured with a new head for task j: informative with a shared head, hardly with one head per
    task.
    """
    rows, initial = results.rows, results.initial
    return mean(_gain(results, rows[task - 1][task], initial[task]) for task in _later(results))


def forward_transfer_without_baseline(results: Results) -> float | None:
    """Mean_{j>=1} R[j-1][j], GEM's forward transfer without b, as Continuum computes it."""
    return mean(results.rows[task - 1][task] for task in _later(results))


def forward_transfer_all_pairs(results: Results) -> float | None:
    """FWT = sum_{i<j} R[i][j] / (T (T-1) / 2), the mean of the upper triangle (Díaz-Rodríguez et al. 2018).

    It needs tasks that can be evaluated long before they are trained, as with a shared head; with one head
    per task only R[j-1][j] is measured, and this is None for three tasks or more.
    """
    count = len(results.rows)
    return mean(row[task] for index, row in enumerate(results.rows) for task in range(index + 1, count))


def first_minus_last(results: Results) -> float | None:
    """Mean_{j<T-1} (R[j][j] - R[T-1][j]), Avalanche's forgetting: the negative of GEM's backward transfer."""
    transfer = backward_transfer(results)
    return None if transfer is None else 0.0 - transfer


def clipped_forgetting(results: Results) -> float | None:
    """Forgetting whose maximum includes the last row, so that no task counts below 0 (Mammoth, PyCIL)."""
    lost = [_forgotten(results, task) for task in range(len(results.rows) - 1)]
    return mean(None if loss is None else max(loss, 0.0) for loss in lost)


def worst_case(results: Results) -> float | None:
    """Mean over tasks of the worst value at any later task boundary (min-ACC of De Lange et al. 2023)."""
    worst = min if results.higher_is_better else max
    worst_cells: list[float | None] = []
    for task in range(len(results.rows) - 1):
        column = [row[task] for row in results.rows[task + 1 :]]
        worst_cells.append(None if None in column else worst(cell for cell in column if cell is not None))
    return mean(worst_cells)


def intransigence(results: Results, reference: Row) -> float | None:
    """Mean_k (a*_k - R[k][k]): how much worse tasks are right after training than in a reference.

    From RWalk (Chaudhry et al. 2018), where the reference trains without constraints.

    Args:
        reference: a*_k, one value per task; in the paper it is of joint training on the tasks up to k.
    """
    return mean(_missing(results, reference))


def relative_intransigence(results: Results, reference: Row) -> float | None:
    """`intransigence`, each term divided by a*_k: 0.5 for a loss larger by half.

    None if an a*_k is 0 or negative.
    """
    missing = _missing(results, reference)
    return mean(_ratio(loss, best) for loss, best in zip(missing, reference, strict=False))


def exactly_constant(results: Results) -> bool:
    """Whether, for each j, all measured R[i][j] with i >= j are bit-identical: nothing was forgotten.

    Then forgetting and backward transfer are exactly 0, in every convention, where they are defined. 0.0 and
    -0.0 differ. True if no task was measured twice.
    """
    for task in range(len(results.tasks)):
        column = {id(row[task]): row[task] for row in results.rows[task:]}  # carried values are one object
        bits = {cell.hex() for cell in column.values() if cell is not None}
        if len(bits) > 1:
            return False
    return True


@attrs.frozen
class Metric:
    """A metric computed from R, with the convention that it follows."""

    name: str
    """E.g. "forgetting"."""
    symbol: str
    """E.g. "F"."""
    convention: str
    """The paper that defines it, e.g. "Chaudhry 2018"."""
    meaning: str
    """In a few words, true whether higher or lower is better."""
    function: Callable[[Results], float | None]
    unitless: bool = False
    """A ratio, which may be averaged over tasks with different units."""

    short: str = ""
    """For the head of a narrow column: "forget"; empty for `name`."""

    def head(self, metric: str) -> str:
        """The short name; that of the average accuracy is "acc", of another metric its own name."""
        if self.short == "acc" and metric != "accuracy":
            return metric
        return self.short or self.title(metric)

    def title(self, metric: str) -> str:
        """The name for results in `metric`: "average accuracy" becomes "average l1" for a matrix of l1."""
        return self.name.replace("accuracy", metric)


MAIN = (
    Metric("average accuracy", "ACC", "GEM 2017", "mean of the last row", average_accuracy, short="acc"),
    Metric(
        "average incremental accuracy",
        "AIA",
        "iCaRL 2017",
        "mean of the means of all rows",
        average_incremental_accuracy,
        short="increm",
    ),
    Metric("learning accuracy", "LA", "MER 2019", "mean of the diagonal", learning_accuracy, short="learn"),
    Metric(
        "forgetting",
        "F",
        "Chaudhry 2018",
        "how much worse than the best row since training",
        forgetting,
        short="forget",
    ),
    Metric(
        "backward transfer",
        "BWT",
        "GEM 2017",
        "how much better than right after training",
        backward_transfer,
        short="bwt",
    ),
)


RELATIVE_FORGETTING = Metric(
    "relative forgetting",
    "F",
    "after Chaudhry 2018",
    "how much worse than the best row since training, as a fraction of it",
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
        "how much better than untrained, right before training",
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
        "forward transfer, all pairs",
        "FWT",
        "Díaz-Rodríguez 2018",
        "mean of the upper triangle",
        forward_transfer_all_pairs,
    ),
    Metric(
        "forgetting, any row",
        "F",
        "RWalk 2018, literally",
        "how much worse than the best row, also before training",
        forgetting_any_row,
    ),
    Metric(
        "forgetting, first - last",
        "F",
        "Avalanche",
        "how much worse than right after training",
        first_minus_last,
    ),
    Metric("forgetting, clipped", "F", "Mammoth", "as Chaudhry's, no task below 0", clipped_forgetting),
    Metric("worst accuracy", "min-ACC", "De Lange 2023", "mean of each task's worst later row", worst_case),
)
"""Metrics of other papers and code bases under the same names."""


def meaningful(metrics: Sequence[Metric], runs: Iterable[Results]) -> tuple[Metric, ...]:
    """Those of `metrics` that are meaningful for the results of all runs.

    If tasks have different units: relative forgetting, and the other metrics without a unit.
    """
    if all(one_unit(results) for results in runs):
        return tuple(metrics)
    unitless = (metric for metric in metrics if metric.unitless and metric != RELATIVE_FORGETTING)
    return (RELATIVE_FORGETTING, *unitless)


def _later(results: Results) -> range:
    """The tasks that were measured right before their training."""
    return range(1, len(results.rows))


def _gain(results: Results, after: float | None, before: float | None) -> float | None:
    """How much better `after` is than `before`."""
    if after is None or before is None:
        return None
    return _goodness(results, after) - _goodness(results, before)


def _forgotten(results: Results, task: int) -> float | None:
    """How much worse the last row is on `task` than the best since its training: a term of `forgetting`."""
    return _gain(results, _best_before(results, task), results.rows[-1][task])


def _forgotten_since_any_row(results: Results, task: int) -> float | None:
    """How much worse the last row is on `task` than the best of all rows before it: a term of
    `forgetting_any_row`."""
    since, before = _forgotten(results, task), [row[task] for row in results.rows[:task]]
    earlier = [_gain(results, cell, results.rows[-1][task]) for cell in before if cell is not None]
    lost = [loss for loss in earlier if loss is not None]
    return None if since is None or len(lost) < len(earlier) else max([since, *lost])


def _relatively_forgotten(results: Results, task: int) -> float | None:
    """The same, divided by that best row."""
    return _ratio(_forgotten(results, task), _best_before(results, task))


def _missing(results: Results, reference: Row) -> list[float | None]:
    """How much worse each task is right after training than its reference value."""
    references = enumerate(reference[: len(results.rows)])
    return [_gain(results, best, results.rows[task][task]) for task, best in references]


def _ratio(loss: float | None, best: float | None) -> float | None:
    """`loss` divided by `best`; None if `best` is 0 or negative."""
    return None if best is None or loss is None or best <= 0 else loss / best


def _best_before(results: Results, task: int) -> float | None:
    """The best value on `task` in the rows from its training on, but the last; None if a cell of them or of
    the last row is missing.
    """
    cells = [row[task] for row in results.rows[task:]]
    best = max if results.higher_is_better else min
    measured = [cell for cell in cells if cell is not None]
    return best(measured[:-1]) if len(measured) == len(cells) else None


def _transferred(results: Results, task: int) -> float | None:
    """How much better the last row is than the row after training `task`: a term of backward transfer."""
    return _gain(results, results.rows[-1][task], results.rows[task][task])


def _goodness(results: Results, cell: float) -> float:
    """The cell, negated if lower is better."""
    return cell if results.higher_is_better else -cell
