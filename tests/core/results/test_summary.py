"""What is read from a run folder: gaps in R, and what they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidetune_core.results.summary import outcome, read_gaps, read_results, summarise
from sidetune_core.storage.run_folder import RunFolder

REASON = "outputs of 1 of 8 examples are not finite"
TASKS = [{"id": "a", "title": "a", "metric": "accuracy"}, {"id": "b", "title": "b", "metric": "accuracy"}]
ABOUT = {
    "resolved": {"learner": {"name": "sidetune/features"}, "env": {"name": "sidetune/digits"}},
    "composition": "digits · features · seed 0",
    "tasks": TASKS,
    "metric": "accuracy",
    "higher_is_better": True,
    "plugins": {},
}


def evaluation(after: int, task: str, value: Any, split: str = "test", **more: Any) -> dict[str, Any]:
    return {"after": after, "task": task, "split": split, "figures": {"accuracy": value, "loss": 0.5}, **more}


def folder_of(path: Path, *lines: dict[str, Any], status: str = "done") -> RunFolder:
    folder = RunFolder(path)
    folder.write_json("run.json", ABOUT)
    (path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.set_status(status)
    return folder


def test_null_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    lines = [evaluation(0, "a", None, not_finite=REASON), evaluation(1, "a", 0.5), evaluation(1, "b", 1)]
    folder = folder_of(tmp_path, *lines)
    assert read_results(folder).rows == ((None, None), (0.5, 1.0))
    assert [str(gap) for gap in read_gaps(folder)] == [f"a, after training a, split test: {REASON}"]
    assert outcome(folder) == f"diverged: a, after training a, split test: {REASON}"


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_of_an_earlier_version_is_a_gap(tmp_path: Path, constant: str) -> None:
    folder = folder_of(tmp_path, evaluation(0, "a", 0.5), evaluation(1, "a", float(constant)))
    assert read_results(folder).rows == ((0.5, None), (None, None))
    summary = summarise(folder)
    assert summary.diverged
    assert summary.gaps == ("a, after training b, split test: it is not finite",)


def test_a_gap_before_training_or_of_another_split_counts_too(tmp_path: Path) -> None:
    lines = [evaluation(-1, "a", None, not_finite="x"), evaluation(0, "a", None, "val", not_finite="y")]
    gaps = [str(gap) for gap in read_gaps(folder_of(tmp_path, *lines))]
    assert gaps == ["a, untrained, split test: x", "a, after training a, split val: y"]


def test_another_metric_that_is_not_finite_is_no_divergence(tmp_path: Path) -> None:
    line = evaluation(0, "a", 0.5, not_finite="loss is inf")
    line["figures"]["loss"] = None
    folder = folder_of(tmp_path, line)
    assert outcome(folder) == "done"
    assert summarise(folder).other_metrics == {"accuracy": 0.5}


def test_a_run_is_finished_if_it_has_ended_and_the_last_task_has_its_row(tmp_path: Path) -> None:
    rows = [evaluation(0, "a", 0.5), evaluation(1, "a", None), evaluation(1, "b", 0.5)]
    assert folder_of(tmp_path, *rows).finished
    assert folder_of(tmp_path, *rows, status="diverged: why").finished
    assert not folder_of(tmp_path, *rows[:1], status="diverged: why").finished
    assert not folder_of(tmp_path, *rows, status="interrupted").finished
