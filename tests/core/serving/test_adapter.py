"""An adapter is read back with its base, and nothing that it names is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sidetune_core import load
from sidetune_core.errors import UntrustedCode, WeightsError
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.base_weights import Bases
from sidetune_core.serving.export import export_adapter

from .conftest import Train, alter, outputs, outputs_of_run


def test_adapters_of_two_runs_on_one_base_share_its_tensors(train: Train, tmp_path: Path) -> None:
    runs = {
        "a": train(base="resnet44", learner="features"),
        "b": train(base="resnet44", learner="features", seed=1),
    }
    digests = set()
    bases = Bases()
    states = []
    for name, run in runs.items():
        exported = export_adapter(run, "t0", tmp_path / name)
        assert exported.base is not None
        digests.add(exported.base.digest)
        states.append(read_adapter(tmp_path / name, bases).state)
    assert len(digests) == 1
    assert states[0]["base.conv1.weight"] is states[1]["base.conv1.weight"]


def test_a_packaged_base_is_built_again(train: Train, tmp_path: Path) -> None:
    run = train(base="resnet44", learner="features")
    assert export_adapter(run, "t0", tmp_path / "t0").notes == ()
    assert torch.equal(outputs(read_adapter(tmp_path / "t0"), run, "t0"), outputs_of_run(run, "t0"))


def test_a_random_base_is_not_found_without_being_given(train: Train, tmp_path: Path) -> None:
    exported = export_adapter(train(), "t1", tmp_path / "t1")
    assert exported.base is not None
    with pytest.raises(WeightsError, match=f"SHA-256 {exported.base.digest}.*random.*base=RUN_OR_FILE"):
        read_adapter(tmp_path / "t1")


def test_a_base_can_be_given_as_a_run(train: Train, tmp_path: Path) -> None:
    export_adapter(train(), "t1", tmp_path / "t1")
    trained = read_adapter(tmp_path / "t1", Bases([train()]))
    assert torch.equal(outputs(trained, train(), "t1"), outputs_of_run(train(), "t1"))


def test_another_base_is_refused_with_both_hashes(train: Train, tmp_path: Path) -> None:
    first = export_adapter(train(), "t1", tmp_path / "a").base
    second = export_adapter(train(seed=3), "t1", tmp_path / "b").base
    assert first is not None
    assert second is not None
    with pytest.raises(WeightsError) as raised:
        read_adapter(tmp_path / "a", Bases([train(seed=3)]))
    assert first.digest in str(raised.value)
    assert second.digest in str(raised.value)


def test_an_adapter_whose_spec_names_a_class_is_refused(adapter: Path) -> None:
    alter(adapter, lambda values: values["spec"]["env"].update(name="evil:Env"))
    with pytest.raises(UntrustedCode, match="evil:Env"):
        read_adapter(adapter)


def test_an_adapter_whose_card_names_a_class_is_refused(adapter: Path) -> None:
    alter(adapter, lambda values: values["cards"][0].update(env="evil:Env"))
    with pytest.raises(UntrustedCode, match="evil:Env"):
        load(adapter)
