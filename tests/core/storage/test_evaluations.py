"""The rows of R from the lines of ``eval.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidetune_core.storage.evaluations import read_evaluations, unchanged_line
from sidetune_core.storage.run_folder import RunFolder

TASKS = ("t0", "t1", "t2")


def line(after: int, task: str, value: float | None) -> dict[str, Any]:
    return {"after": after, "task": task, "split": "test", "figures": {"accuracy": value}}


def rows(path: Path, *lines: dict[str, Any]) -> dict[int, list[float | None]]:
    folder = RunFolder(path)
    for one in lines:
        folder.append("eval.jsonl", one)
    return read_evaluations(folder).rows(TASKS, "test", lambda one: one["figures"]["accuracy"])


def test_a_task_without_a_line_has_the_value_of_the_row_before_where_the_row_says_so(tmp_path: Path) -> None:
    found = rows(
        tmp_path,
        line(-1, "t0", 0.1),
        line(0, "t0", 0.5),
        line(0, "t1", 0.2),
        line(1, "t1", 0.6),
        unchanged_line(1),
        line(1, "t2", 0.3),
        line(2, "t1", 0.7),
        line(2, "t2", 0.8),
        unchanged_line(2),
    )
    assert found == {
        -1: [0.1, None, None],
        0: [0.5, 0.2, None],
        1: [0.5, 0.6, 0.3],
        2: [0.5, 0.7, 0.8],
    }


def test_without_that_line_it_has_none(tmp_path: Path) -> None:
    assert rows(tmp_path, line(0, "t0", 0.5), line(1, "t1", 0.6))[1] == [None, 0.6, None]


def test_a_value_from_before_the_training_of_a_task_is_not_carried_over(tmp_path: Path) -> None:
    found = rows(tmp_path, line(0, "t0", 0.5), line(0, "t1", 0.2), line(1, "t0", 0.5), unchanged_line(1))
    assert found[1] == [0.5, None, None]


def test_a_damaged_line_is_refused_where_it_would_be_a_gap(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"after": 0\n{"after": 1}\n', encoding="utf-8")
    assert read_evaluations(RunFolder(tmp_path)).lines == []
    with pytest.raises(ValueError, match=r"line 1 of eval\.jsonl"):
        read_evaluations(RunFolder(tmp_path), strict=True)
