"""The columns of R that a certificate depends on, read from ``eval.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sidetune_core.errors import RunError
from sidetune_core.scenarios import DEFAULT, task_aware
from sidetune_core.storage.evaluations import FILE, read_evaluations
from sidetune_core.storage.run_folder import RunFolder

Columns = Mapping[str, list[float | None]]
"""By task id, a value for each row of R; None where it was not measured or is not a finite number."""


def read_columns(folder: RunFolder, trained: Sequence[str]) -> Columns:
    """R so far on the test split, without its first row (-1), for the tasks trained so far. Where task ids
    are unknown at test time, the metrics are those of predictions with the task id.

    Raises:
        RunError: ``run.json`` or ``eval.jsonl`` is damaged.
    """
    about = folder.read_json("run.json") if (folder.path / "run.json").is_file() else {}
    try:
        metrics = {task["id"]: task.get("metric", about.get("metric")) for task in about.get("tasks", ())}
        if about.get("resolved", {}).get("scenario", DEFAULT) != DEFAULT:
            metrics = {id: metric and task_aware(metric) for id, metric in metrics.items()}
        rows = read_evaluations(folder).rows(
            trained, "test", lambda line: _number(_metric(line["figures"], metrics.get(line["task"])))
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path / FILE} or run.json is damaged: {error!r}") from error
    measured = [rows.get(row, [None] * len(trained)) for row in range(len(trained))]
    return dict(zip(trained, map(list, zip(*measured, strict=True)), strict=True))


def _metric(metrics: Mapping[str, Any], name: str | None) -> Any:
    return next(iter(metrics.values()), None) if name is None else metrics[name]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
