"""Results as tables of pandas, which is an optional dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidetune_core.errors import SidetuneError
from sidetune_core.results.metrics import Results

if TYPE_CHECKING:
    import pandas


def matrix_frame(results: Results) -> pandas.DataFrame:
    """R: rows ``untrained`` and the tasks trained so far, a column for each task; NaN where not measured."""
    rows = [results.initial, *results.rows]
    index = ["untrained", *results.tasks[: len(results.rows)]]
    frame = _pandas().DataFrame(rows, index=index, columns=[*results.tasks], dtype=float)
    return frame.rename_axis(index="after", columns="task")


def task_frame(results: Results) -> pandas.DataFrame:
    """A row for each task: its value untrained, right after its training, and at the end."""
    last = results.rows[-1] if results.rows else (None,) * len(results.tasks)
    trained = [row[task] for task, row in enumerate(results.rows)]
    trained += [None] * (len(results.tasks) - len(trained))
    columns = {"untrained": results.initial, "trained": trained, "final": last}
    frame = _pandas().DataFrame(columns, index=[*results.tasks], dtype=float)
    return frame.rename_axis(index="task")


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise SidetuneError("tables need pandas: pip install 'sidetune[pandas]'") from error
    return pandas
