"""Runs of a network and tasks that Python gives: run, interrupt, resume, load, extend, verify."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import sidetune_core
from sidetune_core import RunSpec, Task
from sidetune_core.errors import Interrupted, OptionError, RunError, SidetuneError
from sidetune_core.training import optimizer

TRAIN = {"steps": 4, "batch_size": 8}
FP32 = {"precision": "fp32", "name": "cpu"}


class Net(nn.Module):
    """A small classifier of images (3, 8, 8)."""

    def __init__(self, seed: int = 0, width: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.fc = nn.Conv2d(3, width, 3, 2, 1), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.conv(image).relu().mean((2, 3)))


class Augmented(Dataset[Any]):
    """Images of three classes with noise."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((3, 8, 8), row % 3 / 4) + torch.rand(3, 8, 8) / 4, row % 3


class Stream(IterableDataset[Any]):
    """Augmented images without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return map(Augmented().__getitem__, range(30))


def examples(count: int, classes: int = 3, shift: float = 0.0) -> TensorDataset:
    labels = torch.arange(count) % classes
    images = (labels / classes)[:, None, None, None].expand(-1, 3, 8, 8) * 0.5 + shift
    return TensorDataset(images, labels)


def make_tasks(shift: float = 0.0) -> list[Any]:
    names = ["cat", "dog", "bird"]
    return [
        Task.from_dataset(examples(24, shift=shift), examples(9, shift=shift), classes=names),
        Task.from_dataset(examples(16, 2), examples(6, 2)),
    ]


def run(out: Path, **options: Any) -> sidetune_core.Run:
    given = {
        "base": Net(),
        "tasks": make_tasks(),
        "side": "ladder",
        "train": TRAIN,
        "device": FP32,
        **options,
    }
    return sidetune_core.run(out=out, **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which the tests do not change."""
    return run(tmp_path_factory.mktemp("objects") / "run").folder.path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_random_examples_resumes_to_the_same_bytes(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task.from_dataset(Augmented(), Augmented(), workers=workers)
    options = {"tasks": [task], "train": {"steps": 40, "batch_size": 8}}
    whole = run(tmp_path / "whole", **options)
    step, taken = optimizer.Adam.step, []

    def interrupted(self: Any, *arguments: Any, **given: Any) -> Any:
        taken.append(1)
        if len(taken) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **given)

    monkeypatch.setattr(optimizer.Adam, "step", interrupted)
    with pytest.raises(Interrupted):
        run(tmp_path / "part", **options)
    monkeypatch.undo()
    assert len(taken) == 13
    with pytest.raises(RunError, match=r"other data.*base=network, tasks=.*, allow_changed_data=True\)"):
        sidetune_core.resume(tmp_path / "part", base=Net(), tasks=[make_tasks()[0]])
    resumed = sidetune_core.resume(tmp_path / "part", base=Net(), tasks=[task])
    assert resumed.results.rows == whole.results.rows
    first, second = resumed.learner.state_dict(), whole.learner.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_stream_without_a_length_is_trained_for_a_number_of_steps_and_not_of_epochs(tmp_path: Path) -> None:
    task = Task.from_dataset(Stream(), Stream(), classes=[0, 1, 2])
    done = run(tmp_path / "steps", tasks=[task], train={"steps": 5, "batch_size": 8})
    assert 0 <= done.results.rows[0][0] <= 1
    recorded = json.loads((done.folder.path / "data.json").read_text())["records"][0]["parts"]
    assert recorded["t0/train"][0] == 16  # as many as the fingerprint has
    with pytest.raises(OptionError, match="no length, so its epochs cannot be counted"):
        run(tmp_path / "epochs", tasks=[task], train={"epochs": 1})


def test_load_gives_the_trained_run_whatever_the_weights_of_the_network(finished: Path) -> None:
    image = torch.rand(4, 3, 8, 8)
    same, other = (sidetune_core.load(finished, base=Net(seed)) for seed in (0, 7))
    assert torch.equal(same.outputs(image, "t0"), other.outputs(image, "t0"))
    assert same.predict(image, "t0")[0].label in ("cat", "dog", "bird")


def test_the_certificate_is_verified_with_the_network_alone(finished: Path) -> None:
    assert sidetune_core.verify(finished, base=Net(7)).problems == ()


def test_an_evaluation_repeats_what_was_recorded(finished: Path) -> None:
    evaluations = sidetune_core.evaluate(finished, base=Net(), env=make_tasks())
    assert all(one.equals_recorded and one.same_data for one in evaluations)
    (other,) = sidetune_core.evaluate(finished, tasks="t0", base=Net(), env=make_tasks(shift=0.1))
    assert other.same_data is False


def test_the_folder_says_what_its_spec_does_not_have(finished: Path) -> None:
    about = json.loads((finished / "run.json").read_text())
    assert about["resolved"]["base"]["name"] == "sidetune/module"
    assert about["resolved"]["env"] == {"name": "sidetune/datasets", "options": {}}
    assert "not in the spec: the base" in about["not_in_spec"]
    assert about["objects"]["base"]["state"]["conv.weight"] == "float32 6x3x3x3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"sidetune_core.resume\(.*tasks=\[...\], base=network\)"),
        ({"tasks": "tasks"}, r"sidetune_core.resume\(.*, base=network\)"),
        ({"tasks": "tasks", "base": Net(1)}, "other weights than the network that the run began with"),
        (
            {"tasks": "tasks", "base": Net(width=7)},
            r"3 other shapes .*conv.weight float32 6x3x3x3 → .*7x3x3x3",
        ),
        (
            {"tasks": "tasks", "base": nn.Linear(2, 2)},
            "4 missing keys: conv.weight, .* 2 unexpected keys: weight, bias",
        ),
        ({"tasks": "tasks", "base": "resnet44"}, "base= is the network that the run was made with"),
        ({"tasks": ["t0"], "base": Net()}, "tasks= is a list of tasks, as Task.from_dataset makes them"),
    ],
)
def test_other_objects_are_refused(finished: Path, options: dict[str, Any], message: str) -> None:
    if options.get("tasks") == "tasks":
        options = {**options, "tasks": make_tasks()}
    with pytest.raises((OptionError, RunError), match=message):
        sidetune_core.resume(finished, **options)


@pytest.mark.parametrize(
    "use",
    [
        sidetune_core.load,
        sidetune_core.verify,
        lambda path: sidetune_core.extend(path, tasks=make_tasks()),
        lambda path: sidetune_core.extend(path, "digits"),
        lambda path: sidetune_core.evaluate(path, env=make_tasks()),
    ],
)
def test_each_use_without_the_network_says_how_to_give_it(finished: Path, use: Any) -> None:
    with pytest.raises(OptionError, match=r"in Python, sidetune_core.\w+\(.*base=network\)"):
        use(finished)


def test_the_tasks_of_a_run_with_a_base_by_name_are_not_needed_to_load_it(tmp_path: Path) -> None:
    path = run(tmp_path / "run", base={"name": "conv"}, side="copy").folder.path
    assert sidetune_core.load(path).tasks == ("t0", "t1")
    assert sidetune_core.verify(path).problems == ()
    with pytest.raises(OptionError, match="leave out base="):
        sidetune_core.load(path, base=Net())


def test_a_run_is_extended_by_tasks_and_resumed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task.from_dataset(examples(12), examples(6))
    longer = sidetune_core.extend(finished, tasks=[task], base=Net(), out=tmp_path / "longer", quiet=False)
    assert [one.id for one in longer.tasks] == ["t0", "t1", "t2"]
    assert "have changed" not in capsys.readouterr().err  # its id 't0' is taken, its data are others
    again = sidetune_core.resume(longer.folder.path, base=Net(), tasks=[*make_tasks(), task])
    assert again.results.rows == longer.results.rows
    assert sidetune_core.load(longer.folder.path, base=Net()).tasks == ("t0", "t1", "t2")
    with pytest.raises(OptionError, match="tasks= has 7 tasks; those of the run .* are 3"):
        sidetune_core.resume(longer.folder.path, base=Net(), tasks=[task] * 7)


def test_earlier_tasks_are_given_where_they_are_evaluated_once_more(tmp_path: Path) -> None:
    path = run(tmp_path / "run", learner="finetune", side=None).folder.path
    added = [Task.from_dataset(examples(12), examples(6))]
    with pytest.raises(SidetuneError, match=r"extend\(RUN, tasks=\[...\], earlier_tasks=\[...\]\)"):
        sidetune_core.extend(path, tasks=added, base=Net(), out=tmp_path / "no")
    longer = sidetune_core.extend(path, tasks=added, base=Net(), earlier_tasks=make_tasks())
    assert len(longer.results.rows) == 3


def test_scratch_trains_the_network_from_random_weights(tmp_path: Path) -> None:
    learner = run(tmp_path / "run", learner="scratch", side=None, train={"steps": 0, "batch_size": 8}).learner
    weights = [value for name, value in learner.state_dict().items() if name.endswith("conv.weight")]
    assert len(weights) == 2
    assert not any(torch.equal(value, Net().conv.weight) for value in weights)


def test_a_spec_with_objects_can_be_copied_and_written(tmp_path: Path) -> None:
    spec = RunSpec(base={"module": Net(), "encoding": "conv"}, env=make_tasks())
    assert spec.to_json()["base"] == {"name": "sidetune/module", "options": {"encoding": "conv"}}
    assert isinstance(pickle.loads(pickle.dumps(spec)).base.given, Net)
    json.dumps(spec.to_json())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "run.. needs a spec, or its parts"),
        ({"spec": RunSpec(), "seed": 1}, r"got a spec and seed="),
        ({"tasks": make_tasks(), "env": "digits"}, "leave one of them out"),
        ({"base": Net}, r"base is the class Net: give a network, base=Net\(...\)"),
        ({"learner": Net}, "class Net, which is no Learner: .*sidetune list learners"),
        ({"learner": object()}, "learner is a name, such as 'my_module:MyLearner'"),
        ({"env": [1, 2]}, "or a list of tasks; got a list of int"),
        ({"tasks": []}, "tasks= is a list of tasks, .*; got a list of nothing"),
        (
            {"tasks": [make_tasks()[0], *[Task.from_dataset(examples(6), examples(6), id="t1")] * 2]},
            r"several tasks have the id 't1' \(tasks 1, 2\).*id='NAME'",
        ),
        ({"base": {"module": "resnet44"}}, "or an nn.Module; got a str"),
        ({"base": Net(), "env": "digits", "side": "copy", "merger": 3}, "merger is a name"),
        (
            {"tasks": [make_tasks()[0], Task.from_dataset([(torch.zeros(4), 0)], [(torch.zeros(4), 0)])]},
            "the tasks have different inputs: .*task 1 .*'image': .4,.",
        ),
    ],
)
def test_what_cannot_be_run_is_said(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SidetuneError, match=message):
        sidetune_core.run(out=tmp_path / "run", **options)


def test_a_class_of_the_api_is_chosen_by_name(tmp_path: Path) -> None:
    from sidetune_core.testing.sample import TinyBase

    with pytest.raises(OptionError, match=r"base is an instance of TinyBase; .*base='.*:TinyBase'"):
        sidetune_core.run(base=TinyBase((8,)), out=tmp_path / "run")


def test_a_sweep_says_that_its_processes_have_no_objects(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="1 of 2 specs have objects of this process .'b': base"):
        sidetune_core.sweep({"a": RunSpec(), "b": RunSpec(base=Net())}, tmp_path / "sweep")
