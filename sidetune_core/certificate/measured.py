"""The columns of R that a certificate depends on, read from ``eval.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sidetune_core.errors import RunError
from sidetune_core.storage.run_folder import RunFolder

UNCHANGED_SINCE = "unchanged_since"
"""Key of a line of ``eval.jsonl`` that was not measured: the row of R that its values were carried over
from."""

Columns = Mapping[str, list[float | None]]
"""By task id, a value for each row of R; None where it was not measured or is not a finite number."""


def read_columns(folder: RunFolder, trained: Sequence[str]) -> Columns:
    """R so far on the test split, without its first row (-1), for the tasks trained so far.

    Raises:
        RunError: ``run.json`` or ``eval.jsonl`` is damaged.
    """
    about = folder.read_json("run.json") if (folder.path / "run.json").is_file() else {}
    columns: dict[str, list[float | None]] = {task: [None] * len(trained) for task in trained}
    try:
        metrics = {task["id"]: task.get("metric", about.get("metric")) for task in about.get("tasks", ())}
        for line in folder.lines("eval.jsonl"):
            task, row = line["task"], line["after"]
            if line["split"] == "test" and task in columns and 0 <= row < len(trained):
                columns[task][row] = _number(_metric(line["figures"], metrics.get(task)))
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path / 'eval.jsonl'} or run.json is damaged: {error!r}") from error
    return columns


def _metric(metrics: Mapping[str, Any], name: str | None) -> Any:
    return next(iter(metrics.values()), None) if name is None else metrics[name]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
