"""An exported adapter has the outputs of its run, for every learner, and no more than it needs."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core import extend, load
from sidetune_core.errors import RunError, UntrustedCode
from sidetune_core.results.summary import read_results
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.adapter_folder import read_files
from sidetune_core.serving.export import Exporter, export_adapter
from sidetune_core.storage.checkpoint import read_part
from sidetune_core.storage.run_folder import open_run
from sidetune_core.storage.weights import write_tensors

from .conftest import MakeRun, Train, alter, content, outputs, outputs_of_run

FORMER = Path(__file__).parents[2] / "former_runs" / "archives"
FCN4 = {"name": "fcn4", "weights": "none"}
ALONE: dict[str, dict[str, Any]] = {
    "sidetune": {},
    "features": {"learner": "features"},
    "independent": {"learner": "independent"},
    "scratch": {"learner": "scratch"},
    "finetune": {"learner": "finetune"},
    "finetune-per-task": {"learner": {"name": "finetune", "batchnorm": "per-task"}},
    "ewc": {"learner": {"name": "ewc", "examples": 1}},
    "lwf": {"learner": "lwf"},
    "joint": {"learner": "joint"},
    "pnn": {"learner": "pnn", "side": FCN4},
    "distill": {"learner": "distill", "side": FCN4},
}
"""Learners with which a task needs nothing of another one."""
WITH_EARLIER: dict[str, dict[str, Any]] = {
    "sidetune-dense": {"learner": {"name": "sidetune", "dense": True}, "side": FCN4},
    "pnn-dense": {"learner": {"name": "pnn", "dense": True}, "side": FCN4},
    "bsp": {"learner": "bsp"},
}
"""Learners with which a task needs earlier ones."""


@pytest.mark.parametrize("learner", [*ALONE, *WITH_EARLIER])
def test_an_adapter_has_the_outputs_of_the_run_bit_for_bit(
    learner: str, train: Train, tmp_path: Path
) -> None:
    run = train(**{**ALONE, **WITH_EARLIER}[learner])
    exported = export_adapter(run, "t1", tmp_path / "t1", with_base=True)
    assert exported.tasks == (("t1",) if learner in ALONE else ("t0", "t1"))
    assert torch.equal(outputs(read_adapter(tmp_path / "t1"), run, "t1"), outputs_of_run(run, "t1"))


@pytest.mark.parametrize("learner", ["sidetune", "features", "pnn", "distill"])
def test_a_frozen_base_is_not_in_the_adapter(learner: str, train: Train, tmp_path: Path) -> None:
    exported = export_adapter(train(**ALONE[learner]), "t1", tmp_path / "t1")
    assert exported.base is not None
    assert exported.base.modules == ("base",)
    assert not [key for key in read_files(tmp_path / "t1").state if key.startswith("base.")]


@pytest.mark.parametrize("learner", ["independent", "finetune", "lwf", "joint"])
def test_a_learner_that_trains_its_base_has_a_whole_network(
    learner: str, train: Train, tmp_path: Path
) -> None:
    exported = export_adapter(train(**ALONE[learner]), "t1", tmp_path / "t1")
    assert exported.base is None
    assert read_adapter(tmp_path / "t1").tasks == ("t1",)


def test_earlier_tasks_that_only_serve_this_one_cannot_be_asked_for(train: Train, tmp_path: Path) -> None:
    export_adapter(train(**WITH_EARLIER["sidetune-dense"]), "t1", tmp_path / "t1", with_base=True)
    trained = read_adapter(tmp_path / "t1")
    assert (tuple(trained.cards), trained.tasks) == (("t0", "t1"), ("t1",))


def test_the_reason_for_earlier_tasks_is_noted(train: Train, tmp_path: Path) -> None:
    exported = export_adapter(train(**WITH_EARLIER["bsp"]), "t1", tmp_path / "t1")
    assert exported.notes[0].startswith(
        "a learner that is started on t1 alone gives outputs for the probes that differ by up to"
    )


def test_all_tasks_can_be_included(train: Train, tmp_path: Path) -> None:
    assert export_adapter(train(), "t1", tmp_path / "t1", all_tasks=True).tasks == ("t0", "t1", "t2")


def test_an_adapter_is_small_next_to_its_base(train: Train, tmp_path: Path) -> None:
    exported = export_adapter(train(**ALONE["features"]), "t1", tmp_path / "t1")
    assert exported.base is not None
    assert exported.sizes["adapter.safetensors"] < 2000 < exported.base.bytes


def test_exporting_twice_gives_the_same_bytes(train: Train, tmp_path: Path) -> None:
    folders = [export_adapter(train(), "t1", tmp_path / name, with_base=True).folder for name in "ab"]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_a_second_export_replaces_the_first(train: Train, tmp_path: Path) -> None:
    export_adapter(train(), "t1", tmp_path / "a", with_base=True)
    export_adapter(train(), "t2", tmp_path / "a")
    assert read_files(tmp_path / "a").task == "t2"
    assert not (tmp_path / "a" / "base.safetensors").exists()


def test_other_files_are_not_overwritten(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and no earlier adapter"):
        export_adapter(train(), "t1", tmp_path)


def test_no_path_of_the_user_is_in_an_adapter(train: Train, pictures: Path, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "t1").folder
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("task.json", "README.md")]
    assert not [text for text in texts if pictures.parent.name in text]


def test_a_task_that_was_not_trained_is_refused_with_those_that_were(train: Train, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has trained no task 't7'\..* Tasks: t0, t1, t2"):
        export_adapter(train(), "t7", tmp_path / "t7")


def test_without_probes_all_tasks_are_included(train: Train, tmp_path: Path) -> None:
    run = Path(shutil.copytree(train(), tmp_path / "run"))
    shutil.rmtree(run / "probes")
    exported = export_adapter(run, "t1", tmp_path / "t1")
    assert exported.tasks == ("t0", "t1", "t2")
    assert "has no probes of t1" in exported.notes[0]


def test_a_random_base_is_noted_at_the_export(train: Train, tmp_path: Path) -> None:
    exported = export_adapter(train(), "t1", tmp_path / "t1")
    assert "the weights of the base are random, so others need it" in exported.notes[0]


def test_an_export_writes_nothing_into_the_run(train: Train, tmp_path: Path) -> None:
    before = content(train())
    export_adapter(train(), "t1", tmp_path / "t1")
    assert content(train()) == before


@pytest.fixture
def vectors(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose env is code in a module, with a handler of its own."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return make_run(base="mlp", side="mlp", env="serving_envs:Vectors", trust_local_code=True)


def test_a_run_that_names_code_is_not_exported_without_trust(vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(UntrustedCode, match="serving_envs:Vectors"):
        export_adapter(vectors, "t0", tmp_path / "t0")


def test_the_values_of_a_handler_are_in_the_adapter(vectors: Path, tmp_path: Path) -> None:
    export_adapter(vectors, "t0", tmp_path / "t0", with_base=True, trust_local_code=True)
    raw = (0.1, 0.2, 0.3, 0.4)
    models = [load(path, trust_local_code=True) for path in (vectors, tmp_path / "t0")]
    assert models[0].predict([raw])[0] == models[1].predict([raw])[0]


@pytest.fixture
def text(make_run: MakeRun, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The adapter of a run whose base is a folder of the user's."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    run = make_run(
        base={"name": "transformer", "model": str(tiny_bert)},
        side="ladder-text",
        env="serving_envs:Tokens",
        trust_local_code=True,
    )
    exported = export_adapter(run, "t0", tmp_path / "text", with_base=True, trust_local_code=True)
    assert "the adapter names your path in base.model" in exported.notes[0]
    return exported.folder


def test_a_path_that_decides_on_the_network_is_noted_and_kept(text: Path) -> None:
    assert load(text, trust_local_code=True).tasks == ("t0",)


def test_a_path_in_an_adapter_is_not_read_without_trust(text: Path) -> None:
    alter(text, lambda values: values["spec"]["env"].update(name="squad"))
    with pytest.raises(RunError, match="names the path .* in option base.model"):
        load(text)


@pytest.mark.parametrize("missing", ["moved.jsonl", "certificate.json", "eval.jsonl"])
def test_a_run_without_a_file_that_others_read_is_exported(
    missing: str, train: Train, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(train(), tmp_path / "run"))
    (run / missing).unlink()
    exported = export_adapter(run, "t1", tmp_path / "t1", with_base=True)
    assert exported.base is not None
    assert torch.equal(outputs(read_adapter(tmp_path / "t1"), run, "t1"), outputs_of_run(run, "t1"))


def test_weights_from_a_file_are_noted(train: Train, tmp_path: Path) -> None:
    weights = read_part(train() / "checkpoints" / "after-001.safetensors", "base")
    write_tensors(tmp_path / "mine.safetensors", weights)
    run = train(base={"name": "resnet20", "weights": str(tmp_path / "mine.safetensors")}, learner="features")
    exported = export_adapter(run, "t1", tmp_path / "t1")
    assert exported.base is not None
    assert exported.base.weights == "file"
    assert "come from a file of yours" in exported.notes[0]


def test_the_same_base_from_a_file_has_the_same_hash(train: Train, tmp_path: Path) -> None:
    weights = read_part(train() / "checkpoints" / "after-001.safetensors", "base")
    write_tensors(tmp_path / "mine.safetensors", weights)
    run = train(base={"name": "resnet20", "weights": str(tmp_path / "mine.safetensors")}, learner="features")
    first = export_adapter(train(), "t1", tmp_path / "a").base
    second = export_adapter(run, "t1", tmp_path / "b").base
    assert first is not None
    assert second is not None
    assert first.digest == second.digest


def test_values_of_the_last_evaluation_are_in_the_card(train: Train, tmp_path: Path) -> None:
    results = read_files(export_adapter(train(), "t1", tmp_path / "t1").folder).results
    row = read_results(open_run(train())).rows[-1]
    assert (results["value"], results["after"]) == (row[1], "t2")


def test_the_command_of_an_added_task_is_that_of_its_extension(
    train: Train, pictures: Path, tmp_path: Path
) -> None:
    env = {"name": "images", "archive": str(pictures), "image_size": 16, "classes_per_task": 3}
    extend(train(learner="features"), env, tasks=["t1"], train={"steps": 3}, out=tmp_path / "run", quiet=True)
    exporter = Exporter(tmp_path / "run")
    first, added = (
        read_files(exporter.export(task, tmp_path / task).folder).results["command"] for task in ("t0", "t3")
    )
    assert "extend" not in first
    assert added == (
        f"{first} --out RUN && sidetune-run --extend RUN --env sidetune/images "
        "--env.classes-per-task 3 --env.image-size 16 --env.interpolation bilinear "
        "--env.crop-fraction 1.0 --env.archive PATH --tasks t1 --train.steps 3"
    )


@pytest.mark.parametrize("env", ["images", "digits"])
def test_a_run_of_an_earlier_version_is_exported_for_tensors(env: str, tmp_path: Path) -> None:
    with tarfile.open(FORMER / f"{env}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "runs" / env / "done"
    adapter = export_adapter(run, "t0", tmp_path / "t0", with_base=True)
    model = load(adapter.folder)
    inputs = torch.rand(2, *next(iter(model.cards["t0"].inputs.values())))
    expected = [prediction.probability for prediction in load(run).predict(inputs, "t0")]
    assert [prediction.probability for prediction in model.predict(inputs, "t0")] == expected
    assert any("takes tensors and no raw inputs" in note for note in adapter.notes)
