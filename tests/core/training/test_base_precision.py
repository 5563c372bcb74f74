"""A frozen base in bfloat16 next to networks that are trained in float32."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import sidetune_core
from sidetune_core.api import Task
from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.fit import fit_components
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import make_spec
from sidetune_core.interfaces.networks import Base, outermost_bases, set_precision
from sidetune_core.system.precision import Precisions
from sidetune_core.training.finished_run import Run

SMALL = {"name": "resnet20", "weights": "none"}
FCN4 = {"name": "fcn4", "weights": "none"}
MIXED = {"name": "cpu", "precision": "fp32", "base_precision": "bf16"}


def tasks(size: int = 16) -> list[Task]:
    images = torch.rand(24, 3, size, size, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, torch.arange(24) % 2)
    return [Task.from_dataset(data, test=data, id=f"t{number}") for number in range(2)]


def run(folder: Path, **options: Any) -> Run:
    networks: dict[str, Any] = {"base": SMALL, "side": FCN4, "merger": "alpha", "learner": "sidetune"}
    settings: dict[str, Any] = {"train": {"steps": 2, "batch_size": 8}, "device": MIXED, **options}
    return sidetune_core.run(out=folder, **networks, tasks=tasks(), **settings)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("mixed") / "run")


def test_the_base_runs_in_its_own_precision_and_hands_over_float32(mixed: Run) -> None:
    base, images = mixed.learner.base, torch.rand(4, 3, 16, 16)
    assert isinstance(base, Base)
    with torch.no_grad():
        encoding = base({"image": images}).encoding
        base._precision = None
        exact = base({"image": images}).encoding
        with torch.autocast("cpu", torch.bfloat16):
            rounded = base({"image": images}).encoding
        base._precision = "bf16"
    assert encoding.dtype == torch.float32
    assert torch.equal(encoding, rounded.bfloat16().float())
    assert not torch.equal(encoding, exact)


def test_the_run_folder_has_both_precisions(mixed: Run) -> None:
    about = json.loads((mixed.folder.path / "run.json").read_text())
    assert about["machine"].startswith("cpu, base bf16, trained fp32, ")
    assert not sidetune_core.verify(mixed.folder.path).problems


def test_what_is_cached_makes_no_difference(mixed: Run, tmp_path: Path) -> None:
    uncached = run(tmp_path / "run", cache={"mode": "off"})
    expected, state = mixed.learner.state_dict(), uncached.learner.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in state.items())
    assert uncached.results.rows == mixed.results.rows


def test_a_loaded_run_predicts_what_the_run_computed(mixed: Run) -> None:
    images = torch.rand(5, 3, 16, 16)
    network = sidetune_core.load(mixed.folder.path).module("t1")
    with torch.no_grad():
        assert torch.equal(network(images), mixed.predict({"image": images}, "t1"))
    assert network.rounds
    network.use_float32()
    assert not network.rounds


def test_a_run_whose_precision_was_left_open_is_loaded_in_that_of_the_run(tmp_path: Path) -> None:
    """Its record counts, not the rule: runs of earlier versions have one precision for all networks."""
    made = run(tmp_path / "run", device={"name": "cpu", "precision": "fp32"})
    path = made.folder.path / "run.json"
    about = json.loads(path.read_text())
    about["resolved"]["device"]["precision"] = "auto"
    path.write_text(json.dumps(about))
    assert not sidetune_core.load(made.folder.path).module("t1").rounds


def test_a_base_that_was_trained_follows_the_precision_of_training_from_then_on(mixed: Run) -> None:
    learner = copy.deepcopy(mixed.learner)
    base = learner.base
    assert isinstance(base, Base)
    set_precision(outermost_bases(learner), {id(next(base.parameters()))}, "bf16")
    assert base._precision is None
    learner.teacher = copy.deepcopy(base)
    set_precision(outermost_bases(learner), set(), "bf16")
    assert base._precision is learner.teacher._precision is None
    assert isinstance(mixed.learner.base, Base)
    assert mixed.learner.base._precision == "bf16"


@pytest.mark.parametrize(
    ("learner", "side", "expected"),
    [
        ("sidetune", "fcn4", ("bf16", "fp32", False)),
        ("sidetune", "ladder", ("bf16", "bf16", False)),
        ({"name": "sidetune", "begin": "base"}, "fcn4", ("bf16", "fp32", False)),
        ("sidetune", "fork", ("bf16", "bf16", False)),
        ("features", None, ("bf16", "fp32", False)),
        ("finetune", None, ("bf16", "bf16", True)),
    ],
)
def test_the_rule_looks_at_what_is_trained(
    learner: Any, side: str | None, expected: tuple[str, str, bool]
) -> None:
    precisions = precisions_of(learner, {"name": side} if side else None, 32)
    assert (precisions.base, precisions.trained, precisions.base_is_trained) == expected


def test_networks_on_maps_of_one_pixel_are_trained_in_fp32() -> None:
    """The last stage of a ResNet-18 at 16 pixels."""
    base = {"name": "torchvision", "model": "resnet18", "weights": "none"}
    trained = precisions_of("finetune", None, 16, base)
    assert (trained.base, trained.trained) == ("fp32", "fp32")
    assert trained.narrow
    assert all(name.startswith("base 'torchvision'.") for name in trained.narrow)
    assert precisions_of("features", None, 16, base).narrow == ()


def precisions_of(learner: Any, side: Any, size: int, base: Any = None) -> Precisions:
    networks = {"base": base or {"name": "resnet44", "weights": "none"}, "learner": learner, "side": side}
    resolved = resolve(make_spec(None, networks, tasks(size)))
    return fit_components(resolved, build_stream(resolved)).precisions
