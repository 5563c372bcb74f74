"""Evaluations with values that are not finite have no metric: a gap in R."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidetune_core.api import ClassTask, Predict
from sidetune_core.errors import Diverged, PluginError
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.testing import sample

from .conftest import Plain, Training

GAP = {"accuracy": None, "balanced_accuracy": None, "loss": None}


class Broken(Plain):
    """Some of its outputs are not finite, when it is evaluated."""

    first, last, value = 0, 1, math.nan

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        output = super().forward(inputs, task_id)
        if torch.is_grad_enabled():
            return output
        rows = torch.arange(len(output))[:, None]
        columns = torch.arange(output.shape[1])
        return output.masked_fill((rows < 3) & (columns >= self.first) & (columns < self.last), self.value)


class Masked(Broken):
    value = -math.inf


class FullyMasked(Masked):
    last = 2


def evaluations(training: Training, task: str = "t0") -> list[dict[str, Any]]:
    lines = RunFolder(training.path / "run").lines("eval.jsonl")
    return [line for line in lines if line["task"] == task]


@pytest.mark.parametrize("learner", [Broken, FullyMasked])
def test_an_evaluation_with_outputs_that_are_not_finite_has_no_metric(
    training: Training, learner: type[Broken]
) -> None:
    training.learn(training.make(learner))
    lines = evaluations(training)
    assert [line["after"] for line in lines] == [-1, 0, 1]
    assert [line["figures"] for line in lines] == [GAP] * 3
    assert {line["not_finite"] for line in lines} == {"outputs of 3 of 8 examples are not finite"}


def test_a_masked_class_is_evaluated(training: Training) -> None:
    training.learn(training.make(Masked))
    assert all(line["figures"]["accuracy"] is not None for line in evaluations(training))


def test_a_gap_is_reported_once_for_each_task(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    training.learn(training.make(Broken))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: task t{k} (task {k}), split test: outputs of 3 of 8 examples are not finite, so its "
        "accuracy is a gap in R, and the run ends as diverged"
        for k in range(2)
    ]


@pytest.fixture
def evaluated(training: Training, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Evaluations of a learner on tasks that are evaluated in another way."""
    usual = ClassTask.evaluate

    def train(change: Callable[..., Any], learner: type[Plain] = Plain) -> list[dict[str, Any]]:
        def evaluate(task: ClassTask, predict: Predict, split: str = "test") -> Any:
            return change(usual(task, predict, split))

        monkeypatch.setattr(ClassTask, "evaluate", evaluate)
        training.learn(training.make(learner))
        return evaluations(training)

    return train


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_a_gap_and_others_are_kept(
    evaluated: Callable[..., list[dict[str, Any]]], value: float
) -> None:
    line, *_ = evaluated(lambda metrics: {"accuracy": value, "examples": 8})
    assert line["figures"] == {"accuracy": None, "examples": 8}
    assert line["not_finite"] == f"accuracy is {value}"


def fail(metrics: object) -> Any:
    raise ValueError("Input contains NaN")


def test_a_task_that_fails_on_outputs_that_are_not_finite_has_a_gap(
    evaluated: Callable[..., list[dict[str, Any]]],
) -> None:
    line, *_ = evaluated(fail, Broken)
    assert line["figures"] == {"accuracy": None}
    assert line["not_finite"] == "outputs of 3 of 8 examples are not finite"


def test_a_task_that_fails_on_finite_outputs_ends_the_run(
    evaluated: Callable[..., list[dict[str, Any]]],
) -> None:
    with pytest.raises(ValueError, match="Input contains NaN"):
        evaluated(fail)


def test_a_task_may_say_that_its_evaluation_diverged(
    evaluated: Callable[..., list[dict[str, Any]]],
) -> None:
    def diverge(metrics: object) -> Any:
        raise Diverged("the policy's outputs are not finite", "Try a smaller --train.lr")

    line, *_ = evaluated(diverge)
    assert (line["figures"], line["not_finite"]) == (
        {"accuracy": None},
        "the policy's outputs are not finite",
    )


class Documented(ClassTask):
    """Leaves a document."""

    def documents(self) -> Mapping[str, str]:
        return {"predictions.txt": "numbers"}

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        predict(next(self.batches("test")).rows(slice(2)).inputs)
        return {"prediction": torch.zeros(3, 2, 2)}

    def record(self) -> dict[str, float]:
        return {"return": math.nan, "accuracy": math.inf}


def documented() -> Documented:
    return Documented("t0", "task 0", sample.examples(2), (0, 1), transform=torch.clone)


def test_documents_and_images_of_an_earlier_evaluation_are_deleted_with_a_gap(training: Training) -> None:
    task, learner = documented(), training.make(Plain)
    training.learn(learner, tasks=[task])
    names = ("documents/t0-test/predictions.txt", "pictures/t0.prediction.png")
    paths = [training.path / "run" / name for name in names]
    assert all(path.is_file() for path in paths)
    with torch.no_grad():
        learner.layer.weight.fill_(math.nan)
    (training.path / "run" / "checkpoints").rename(training.path / "elsewhere")
    (training.path / "run" / "checkpoints").mkdir()
    training.learn(learner, tasks=[task], steps=0)
    assert not any(path.exists() for path in paths)


def test_training_metrics_that_are_not_finite_are_null(training: Training) -> None:
    (line,) = training.learn(training.make(Plain), tasks=[documented()])
    assert (line["return"], line["accuracy"]) == (None, None)
    strict(training.path / "run" / "metrics.jsonl")


def test_every_file_of_a_run_is_strict_json(training: Training) -> None:
    training.learn(training.make(Broken))
    for path in (training.path / "run").rglob("*.json*"):
        strict(path)


def strict(path: Path) -> None:
    """Check that a file is JSON without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} has {constant}")

    text = path.read_text()
    for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
        json.loads(line, parse_constant=refuse)


def test_metrics_of_numpy_and_torch_are_recorded(evaluated: Callable[..., list[dict[str, Any]]]) -> None:
    line, *_ = evaluated(lambda metrics: {"accuracy": np.float32(0.5), "loss": torch.tensor(0.25)})
    assert line["figures"] == {"accuracy": 0.5, "loss": 0.25}


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        (None, "has returned None; it is to return numbers by name"),
        ({"accuracy": None}, "has returned, as 'accuracy', None, which is no number"),
        ({"loss": 0.5}, "has not returned 'accuracy' on split 'test', the metric that R records"),
    ],
    ids=["None", "no number", "another metric"],
)
def test_a_task_without_metrics_is_named(
    evaluated: Callable[..., list[dict[str, Any]]], metrics: object, problem: str
) -> None:
    with pytest.raises(PluginError, match=rf"evaluate\(\) of task 't0' {problem}"):
        evaluated(lambda _: metrics)
