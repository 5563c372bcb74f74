"""Runs on labels and values, from training to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sidetune_core
from sidetune_core import RunSpec
from sidetune_core.api import LabelsPrediction, ValuesPrediction
from sidetune_core.certificate.verify import verify
from sidetune_core.errors import FitError
from sidetune_core.results.class_report import class_lines
from sidetune_core.results.summary import read_results, summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.task import SupervisedTask

TRAIN = {"steps": 60, "batch_size": 16, "lr": 0.03}
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def envs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for label_envs


def trained(folder: Path, env: str, learner: str) -> RunFolder:
    side = "mlp" if learner == "sidetune" else None
    spec = RunSpec(base="mlp", side=side, env=f"label_envs:{env}", learner=learner, train=TRAIN)
    return RunFolder(sidetune_core.run(spec, folder).folder.path)


@pytest.mark.parametrize("learner", ["sidetune", "ewc", "lwf"])
def test_a_run_on_labels_learns_reports_and_predicts_without_its_data(tmp_path: Path, learner: str) -> None:
    folder = trained(tmp_path / "run", "Labels", learner)
    results = read_results(folder)
    (_, last), untrained = results.rows[-1], results.initial
    assert (results.metric, last is not None and last > (untrained[1] or 0)) == ("map", True)
    assert json.loads((folder.path / "tasks" / "t0.json").read_text())["head"] == "linear"
    assert not verify(folder, trust_local_code=True).problems
    model = sidetune_core.load(folder.path, trust_local_code=True)
    (prediction, *_) = model.predict(X, task="t1")
    assert isinstance(prediction, LabelsPrediction)
    output = model.module("t1")(torch.from_numpy(X))[0]
    expected = dict(zip(("red", "round", "rare"), output.double().sigmoid().tolist(), strict=True))
    assert prediction.probabilities == pytest.approx(expected, abs=1e-5)


def test_labels_are_evaluated_one_by_one(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", "Labels", "features")
    (evaluation, _) = sidetune_core.evaluate(folder.path, per_class=True, trust_local_code=True)
    assert evaluation.equals_recorded
    assert [one.name for one in evaluation.classes] == ["red", "round", "rare"]
    assert sum(one.count for one in evaluation.classes) > 0
    assert any("lowest recall: " in line for line in class_lines(folder, read_results(folder)))


def test_a_run_on_values_reports_errors_and_predicts_values(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", "Values", "lwf")
    results = read_results(folder)
    assert (results.metric, results.higher_is_better) == ("rmse", False)
    assert (results.rows[-1][1] or 9) < (results.initial[1] or 0)
    assert {"rmse", "mae", "r2", "loss"} == summarise(folder).other_metrics.keys()
    (prediction, *_) = sidetune_core.load(folder.path, trust_local_code=True).predict(X, task="t0")
    assert isinstance(prediction, ValuesPrediction)
    assert list(prediction.values) == ["a", "b", "c"]


def test_ewc_says_which_fishers_a_regression_has(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="Use --learner.fisher 'empirical'"):
        trained(tmp_path / "run", "Values", "ewc")


@pytest.mark.parametrize("option", ["sampling", "class_weights"])
def test_a_run_that_failed_within_a_task_resumes_to_the_same_bytes(
    option: str, tmp_path: Path, image_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"name": "images", "archive": image_archive, "image_size": 8, option: "balanced"}
    env |= {"augment": "crop-flip", "classes_per_task": 2}
    train = {"steps": 6, "batch_size": 5}
    spec = RunSpec(base="conv", env=env, learner="features", train=train)
    whole = sidetune_core.run(spec, tmp_path / "whole").folder.path
    calls, loss = 0, SupervisedTask.loss

    def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise RuntimeError("no more")
        return loss(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(SupervisedTask, "loss", failing)
        with pytest.raises(RuntimeError, match="no more"):
            sidetune_core.run(spec, tmp_path / "run", save_every="2")
    sidetune_core.resume(tmp_path / "run")
    for name in ("eval.jsonl", "metrics.jsonl", "documents/t1-test/confusion.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    for path in (whole / "checkpoints").glob("*.safetensors"):
        assert (tmp_path / "run" / "checkpoints" / path.name).read_bytes() == path.read_bytes()
