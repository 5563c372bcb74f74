from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sidetune_core
from sidetune_core import RunSpec, TaskEvaluation, evaluate
from sidetune_core.errors import DataError, FitError, OptionError, UntrustedCode

from .conftest import MakeRun, content


def archive(path: Path, names: tuple[str, ...] = ("cat", "dog"), size: int = 8, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    labels = np.arange(10) % len(names)
    images = random.integers(0, 256, (10, size, size, 3), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[::-1], y_test=labels[::-1], names=names)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on an archive of cats and dogs."""
    root = tmp_path_factory.mktemp("photos")
    env = {"name": "images", "archive": str(archive(root / "a.npz")), "image_size": 16}
    base = {"name": "resnet20", "weights": "none"}
    sidetune_core.run(RunSpec(base=base, env=env, train={"steps": 2, "batch_size": 4}), root / "run")
    return root / "run"


def values(evaluations: list[TaskEvaluation]) -> dict[str, float | None]:
    return {evaluation.task: evaluation.value for evaluation in evaluations}


@pytest.mark.parametrize("learner", ["sidetune", "finetune", "joint"])
def test_the_values_are_the_last_row_of_the_run(make_run: MakeRun, learner: str) -> None:
    evaluations = evaluate(make_run(learner))
    assert [evaluation.equals_recorded for evaluation in evaluations] == [True, True]


def test_the_data_are_known_as_those_of_the_run(digits_run: Path) -> None:
    assert [evaluation.same_data for evaluation in evaluate(digits_run)] == [True, True]


def test_nothing_in_the_folder_changes(digits_run: Path) -> None:
    before = content(digits_run)
    evaluate(digits_run)
    assert content(digits_run) == before


def test_one_task_is_evaluated_alone(digits_run: Path) -> None:
    assert list(values(evaluate(digits_run, tasks="t1"))) == ["t1"]


def test_other_data_are_evaluated_and_known_as_such(photos: Path, tmp_path: Path) -> None:
    (evaluation,) = evaluate(photos, env={"archive": str(archive(tmp_path / "b.npz", seed=1))})
    assert evaluation.same_data is False


def test_another_split_has_no_recorded_values(digits_run: Path) -> None:
    evaluations = evaluate(digits_run, "val", env={"val_fraction": 0.2})
    assert [evaluation.equals_recorded for evaluation in evaluations] == [None, None]


def test_classes_sum_up_to_the_accuracy(digits_run: Path) -> None:
    (evaluation,) = evaluate(digits_run, tasks="t0", per_class=True)
    correct = sum(each.correct for each in evaluation.classes)
    count = sum(each.count for each in evaluation.classes)
    assert [each.name for each in evaluation.classes] == ["0", "1"]
    assert evaluation.value == correct / count


def test_the_same_classes_in_another_order_are_refused(photos: Path, tmp_path: Path) -> None:
    other = str(archive(tmp_path / "b.npz", ("dog", "cat")))
    with pytest.raises(FitError, match="in another order: where the run has 'cat', the data have 'dog'"):
        evaluate(photos, env={"archive": other})


def test_another_number_of_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    other = str(archive(tmp_path / "b.npz", ("cat", "dog", "owl")))
    with pytest.raises(FitError, match=r"trained with 2 outputs \(logits\); the data need 3"):
        evaluate(photos, env={"archive": other})


def test_images_of_another_size_are_refused(photos: Path) -> None:
    with pytest.raises(FitError, match="was trained on inputs"):
        evaluate(photos, env={"image_size": 24})


def test_a_task_that_the_data_lack_is_named(digits_run: Path) -> None:
    with pytest.raises(FitError, match="the data have no task 't1'; their tasks are t0"):
        evaluate(digits_run, tasks="t1", env={"num_tasks": 1})


def test_a_task_that_was_not_trained_is_named(digits_run: Path) -> None:
    with pytest.raises(OptionError, match=r"has not trained a task 't7'; it has 't0' \(0, 1\)"):
        evaluate(digits_run, tasks="t7")


def test_an_unknown_split_is_named(digits_run: Path) -> None:
    with pytest.raises(OptionError, match=r"no split 'val' \(--split\); its splits are test"):
        evaluate(digits_run, "val")


ENV = """
import torch
from torch import nn
from sidetune_core.api import ClassTask, Examples, TaskStream
import attrs

class OwnHead(ClassTask):
    def make_head(self, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), self.classes))

class Env(TaskStream):
    @attrs.frozen
    class Config:
        pass
    def __init__(self, config, seed):
        self.inputs = {"image": (3, 16, 16)}
    def tasks(self):
        images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(8) % 2
        examples = Examples({"train": images, "test": images}, {"train": labels, "test": labels})
        return [OwnHead("t0", "own", examples, [0, 1], transform=torch.clone)]
"""


def test_a_task_whose_head_only_its_data_can_make_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_head.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    base = {"name": "resnet20", "weights": "none"}
    spec = RunSpec(base=base, env="own_head:Env", train={"steps": 1, "batch_size": 4})
    sidetune_core.run(spec, tmp_path / "run")
    (evaluation,) = evaluate(tmp_path / "run", trust_local_code=True)
    assert evaluation.equals_recorded


def test_code_that_a_run_names_is_not_imported(tmp_path: Path, digits_run: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_run, folder)
    about = (folder / "run.json").read_text()
    (folder / "run.json").write_text(about.replace('"name": "sidetune/digits"', '"name": "own_head:Env"'))
    with pytest.raises(UntrustedCode):
        evaluate(folder)


def test_predictions_for_the_test_files_have_the_accuracy_of_the_run(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, name, index in product(("train", "test"), ("cat", "dog"), range(6)):
        path = tmp_path / "photos" / split / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    env = {"name": "images", "root": str(tmp_path / "photos"), "image_size": 16}
    base = {"name": "resnet20", "weights": "none"}
    run = sidetune_core.run(
        RunSpec(base=base, env=env, train={"steps": 2, "batch_size": 4}), tmp_path / "run"
    )
    files = sorted((tmp_path / "photos" / "test").rglob("*.png"))
    predictions = sidetune_core.load(tmp_path / "run").predict(files)
    correct = [path.parent.name == found.label for path, found in zip(files, predictions, strict=True)]
    assert sum(correct) / len(correct) == run.results.rows[-1][0]


@pytest.fixture(scope="module")
def extended(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on t0 and t1 of digits, extended with t0 and t1 of an archive as t2 and t3; and the archive."""
    root = tmp_path_factory.mktemp("extended")
    data = archive(root / "a.npz", ("ant", "bee", "cat", "dog"))
    env = {"name": "images", "archive": str(data), "image_size": 32, "classes_per_task": 2}
    shutil.copytree(make_run(), root / "run")
    sidetune_core.extend(root / "run", env, train={"steps": 2})
    return root / "run", data


def test_all_tasks_of_an_extended_run_are_evaluated(extended: tuple[Path, Path]) -> None:
    evaluations = evaluate(extended[0])
    assert [(one.task, one.equals_recorded, one.same_data) for one in evaluations] == [
        (task, True, True) for task in ("t0", "t1", "t2", "t3")
    ]


def test_an_added_task_is_evaluated_alone(extended: tuple[Path, Path]) -> None:
    assert list(values(evaluate(extended[0], tasks="t3"))) == ["t3"]


def test_other_data_of_an_added_task_are_matched_by_the_id_in_its_env(
    extended: tuple[Path, Path], tmp_path: Path
) -> None:
    other = str(archive(tmp_path / "b.npz", ("ant", "bee", "cat", "dog"), seed=1))
    (evaluation,) = evaluate(extended[0], tasks="t2", env={"archive": other})
    assert (evaluation.task, evaluation.same_data) == ("t2", False)


def test_an_added_task_that_other_data_lack_is_named(extended: tuple[Path, Path]) -> None:
    with pytest.raises(FitError, match="have no task 't1', which is task 't3' of the run; their"):
        evaluate(extended[0], tasks="t3", env={"num_tasks": 1})


@pytest.mark.parametrize("tasks", [None, ["t0", "t2"]])
def test_other_data_for_tasks_of_several_envs_are_refused(
    extended: tuple[Path, Path], tasks: list[str] | None
) -> None:
    message = r"t0, t1 of env 'digits'; t2, t3 of env 'images'\).*pass --task ID"
    with pytest.raises(OptionError, match=message):
        evaluate(extended[0], tasks=tasks, env={"num_tasks": 1})


def test_an_env_whose_data_are_gone_is_named(extended: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = extended
    hidden = data.rename(tmp_path / "hidden.npz")
    try:
        with pytest.raises(
            DataError, match=r"env 'images' cannot be read.* t2, t3: .*\(t0, t1\), pass --task"
        ):
            evaluate(run)
        assert list(values(evaluate(run, tasks="t1"))) == ["t1"]
    finally:
        hidden.rename(data)
