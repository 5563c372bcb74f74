"""Bases are identified by what they compute with, and found where they are."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from sidetune_core import RunSpec, load
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.errors import WeightsError
from sidetune_core.interfaces.networks import Base
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.adapter_folder import read_files
from sidetune_core.serving.base_weights import Bases, base_digest, bases_in, build_base, state_tensors
from sidetune_core.serving.export import export_adapter
from sidetune_core.storage.checkpoint import read_part
from sidetune_core.storage.weights import read_tensors, write_tensors

from .conftest import Train, record_again

INPUTS = {"image": (3, 16, 16)}


def resolved(base: Any = "resnet44") -> ResolvedRun:
    return resolve(RunSpec(base=base, learner="features", env="digits"))  # type: ignore[arg-type]


def digest(base: Any = "resnet44", seed: int = 0) -> str:
    run = resolved(base)
    return base_digest(run.components["base"], state_tensors(build_base(run, INPUTS, seed)))


def test_the_digest_of_a_base_does_not_depend_on_the_seed() -> None:
    assert digest(seed=0) == digest(seed=1)


def test_random_bases_of_two_seeds_differ() -> None:
    random = {"name": "resnet20", "weights": "none"}
    assert digest(random, seed=0) != digest(random, seed=1)


def test_the_digest_does_not_depend_on_where_the_weights_were_read_from(tmp_path: Path) -> None:
    tensors = state_tensors(build_base(resolved(), INPUTS, 0))
    write_tensors(tmp_path / "copy.safetensors", tensors)
    assert digest({"name": "resnet44", "weights": str(tmp_path / "copy.safetensors")}) == digest()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_digest_does_not_depend_on_the_precision_in_storage(kind: torch.dtype) -> None:
    short = {"weight": torch.rand(4).to(kind)}
    component = resolved().components["base"]
    assert base_digest(component, short) == base_digest(component, {"weight": short["weight"].float()})


def test_the_digest_depends_on_options_that_differ_from_their_defaults() -> None:
    tensors = {"weight": torch.ones(4)}
    wide, plain = (resolved({"name": "mlp", "width": width}).components["base"] for width in (32, 64))
    assert base_digest(wide, tensors) != base_digest(plain, tensors)


def test_one_value_changes_the_digest() -> None:
    component = resolved().components["base"]
    assert base_digest(component, {"a": torch.ones(2)}) != base_digest(
        component, {"a": torch.tensor([1, 1.1])}
    )


def test_the_bases_of_a_learner_are_found_without_those_inside_of_others() -> None:
    class Outer(Base):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_base(resolved(), INPUTS, 0)

        def forward(self, inputs: Any) -> Any:
            return self.inner(inputs)

    learner = torch.nn.ModuleDict({"base": Outer(), "head": torch.nn.Linear(2, 2)})
    assert list(bases_in(learner)) == ["base"]


def test_a_base_can_be_given_as_a_file(adapter: Path, train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "without").folder
    trained = read_adapter(folder, Bases([adapter / "base.safetensors"]))
    assert "base.conv1.weight" in trained.state


def test_a_base_can_be_given_as_the_folder_of_an_adapter(adapter: Path, train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "without").folder
    assert load(folder, base=adapter).tasks == ("t1",)


def test_a_base_can_be_given_as_a_file_for_the_option_weights(train: Train, tmp_path: Path) -> None:
    run = train(base="resnet44", learner="features")
    folder = export_adapter(run, "t0", tmp_path / "t0").folder
    weights = read_part(run / "checkpoints" / "after-001.safetensors", "base")
    without = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    write_tensors(
        tmp_path / "weights.safetensors", {f"module.{key}": value for key, value in without.items()}
    )
    bases = Bases([tmp_path / "weights.safetensors"])
    assert "base.conv1.weight" in read_adapter(folder, bases).state


def test_a_run_with_another_component_is_named_with_its_hash(train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "t1").folder
    other = train(base="resnet44", learner="features")
    with pytest.raises(WeightsError, match=r"resnet20' with SHA-256 \w{64}.*resnet44' with SHA-256 \w{64}"):
        load(folder, base=other)


def test_an_adapter_whose_base_was_replaced_is_refused_with_both_hashes(adapter: Path) -> None:
    path = adapter / "base.safetensors"
    write_tensors(path, {name: value + 1 for name, value in read_tensors(path).items()})
    record_again(adapter, path.name)
    with pytest.raises(WeightsError, match=r"needs base .* SHA-256 (\w{64}).* with SHA-256 (?!\1)\w{64}"):
        read_adapter(adapter)


def test_an_adapter_uses_the_base_of_a_run_in_the_model(train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "t1").folder
    model = load(train())
    model.add(folder, rename={"t1": "again"})
    assert model.tasks == ("t0", "t1", "t2", "again")


def test_adapters_in_a_model_have_one_base_in_memory(train: Train, tmp_path: Path) -> None:
    folders = [export_adapter(train(), task, tmp_path / task, with_base=True).folder for task in ("t0", "t1")]
    learners = {served.learner for served in load(*folders)._tasks.values()}
    assert len(learners) == 2
    pointers = {next(iter(bases_in(one.learner).values())).conv1.weight.data_ptr() for one in learners}  # type: ignore[union-attr]
    assert len(pointers) == 1


def test_a_base_is_freed_with_its_last_task(train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "t1", with_base=True).folder
    model = load(folder)
    model.remove("t1")
    gc.collect()
    assert not len(model._bases._in_use)


def test_the_outputs_of_a_removed_and_added_adapter_are_the_same(adapter: Path) -> None:
    model = load(adapter)
    images = torch.rand(2, 3, 16, 16)
    before = model.outputs(images)
    model.remove("t1")
    model.add(adapter)
    assert torch.equal(model.outputs(images), before)


def test_a_reference_names_the_tensors_of_modules_and_single_ones(adapter: Path) -> None:
    reference = read_files(adapter).base
    assert reference is not None
    both = attrs.evolve(reference, modules=("a",), tensors={"b": "x"})
    assert dict(both.names({"w": torch.ones(1)})) == {"a.w": "w", "b": "x"}
