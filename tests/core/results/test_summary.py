"""What is read from a run folder: gaps in R, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidetune_core.errors import RunError
from sidetune_core.results.report import anytime_lines, run_report
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
    lines = [evaluation(0, "a", 0.5), evaluation(1, "a", float(constant)), evaluation(1, "b", 0.5)]
    folder = folder_of(tmp_path, *lines)
    assert read_results(folder).rows == ((0.5, None), (None, 0.5))
    summary = summarise(folder)
    assert summary.diverged
    assert summary.gaps == ("a, after training b, split test: it is not finite",)


def test_a_gap_before_training_or_of_another_split_counts_too(tmp_path: Path) -> None:
    lines = [evaluation(-1, "a", None, not_finite="x"), evaluation(0, "a", None, "val", not_finite="y")]
    gaps = [str(gap) for gap in read_gaps(folder_of(tmp_path, *lines))]
    assert gaps == ["a, untrained, split test: x", "a, after training a, split val: y"]


def test_another_metric_that_is_not_finite_is_no_divergence(tmp_path: Path) -> None:
    lines = [evaluation(1, task, 0.5, not_finite="loss is inf") for task in "ab"]
    for line in lines:
        line["figures"]["loss"] = None
    folder = folder_of(tmp_path, *lines)
    assert outcome(folder) == "done"
    assert summarise(folder).other_metrics == {"accuracy": 0.5}


def test_a_run_is_finished_if_it_has_ended_and_the_last_task_has_its_row(tmp_path: Path) -> None:
    rows = [evaluation(0, "a", 0.5), evaluation(1, "a", None), evaluation(1, "b", 0.5)]
    assert folder_of(tmp_path, *rows).finished
    assert folder_of(tmp_path, *rows, status="diverged: why").finished
    assert not folder_of(tmp_path, *rows[:1], status="diverged: why").finished
    assert not folder_of(tmp_path, *rows, status="interrupted").finished


ROWS = [evaluation(0, "a", 0.5), evaluation(1, "a", 0.5), evaluation(1, "b", 0.5)]


@pytest.mark.parametrize(
    ("left", "missing"),
    [([], "row for the state after training b"), (ROWS[:1], "row for .* b"), (ROWS[:2], "value of b for")],
)
@pytest.mark.parametrize("read", [summarise, outcome])
def test_a_finished_run_that_lacks_rows_or_cells_of_r_is_damaged(
    tmp_path: Path, left: list[dict[str, Any]], missing: str, read: Callable[[RunFolder], object]
) -> None:
    with pytest.raises(RunError, match=f"is damaged: R has no {missing}"):
        read(folder_of(tmp_path, *left))


def test_a_row_of_which_there_is_a_checkpoint_is_not_taken_for_one_of_joint_training(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *ROWS[1:])
    assert summarise(folder).results.rows == ((None, None), (0.5, 0.5))  # joint training has one stage
    folder.checkpoints.mkdir()
    (folder.checkpoints / "after-001.json").touch()
    with pytest.raises(RunError, match="R has no row for the state after training a;"):
        summarise(folder)


def test_a_run_that_diverged_while_it_trained_lacks_rows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ROWS[0], status="diverged: the loss is nan")
    assert summarise(folder).results.rows == ((0.5, None),)


def test_evaluations_within_tasks_are_reported_with_what_they_decided(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, evaluation(0, "a", 0.5), evaluation(1, "a", 0.5), evaluation(1, "b", 1))
    values = {("a", 0, 2): {"a": 0.5}, ("b", 1, 0): {"a": 0.5, "b": 0}, ("b", 1, 2): {"a": 0.25, "b": 1}}
    for (stage, trained, step), row in values.items():
        for task, value in row.items():
            line = {"stage": stage, "trained": trained, "step": step, "task": task, "split": "val"}
            folder.append("within.jsonl", {"kind": "evaluation", **line, "metrics": {"accuracy": value}})
    selection = {"stage": "a", "phase": "train", "steps": 4, "planned": 9, "best_step": 2, "value": 0.5}
    selection |= {"metric": "accuracy", "stopped": True, "restored": False}
    folder.append("within.jsonl", {"kind": "selection", **selection})
    for task, drawn in (("a", 12), ("b", 10)):
        line = {"kind": "pass", "stage": task, "task": task, "examples": 10, "drawn": drawn, "distinct": 9}
        folder.append("within.jsonl", line | ({"distinct": 10} if task == "b" else {}))
    summary = summarise(folder)
    assert summary.training == (
        "selected on val: of 1 training phase, 1 stopped early and 0 restored earlier weights",
        "  a: 4 of 9 steps; accuracy on val was best after step 2 (0.5)",
        "one epoch, but no single pass in 1 of 2 tasks: no batch is incomplete, so that examples are left "
        "out or drawn again; choose a --train.batch-size that divides their number",
        "  a: 1 of 10 not drawn, 3 drawn again",
    )
    assert anytime_lines(summary)[1].split()[:4] == ["average", "minimum", "accuracy", "25.00"]
    report = run_report(summary)
    assert "| worst-case accuracy | 62.50 % |" in report  # 1 / 2 + 0.25 / 2
    assert "## Training\n\n- selected on val" in report


def test_one_epoch_in_which_each_example_is_drawn_once_is_a_single_pass(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, evaluation(1, "a", 0.5), evaluation(1, "b", 0.5))
    folder.append("within.jsonl", {"kind": "pass", "task": "a", "examples": 9, "drawn": 9, "distinct": 9})
    assert summarise(folder).training == (
        "single pass: every training example of 1 task was drawn exactly once, by its id",
    )
    (tmp_path / "within.jsonl").write_text('{"kind": "pass"}\n')
    assert "within.jsonl" in " ".join(summarise(folder).left_out)
