"""FCN4: size, keys, shapes, and reading the published pickle without running its code."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import Base, Features, FitError, Published, Side, WeightsError, load_weights
from sidetune_core.config.kinds import SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.storage.legacy_pickle import load_tensors

NO_FEATURES = Features(torch.zeros(0))


class Plain(Base):
    """A base that only declares a shape."""

    def __init__(self, shape: tuple[int, ...] = (64,)) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(torch.zeros(len(inputs["image"]), *self.shape))


def make(weights: str | Path = "none", size: tuple[int, ...] = (3, 32, 32), base: Base | None = None) -> Side:
    cls = load(find(SIDE, "fcn4"))
    side: Side = cls(cls.Config(weights=str(weights)), {"image": size}, base or Plain())
    return side


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of published weights, empty."""
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in make().parameters()) == 25_904


def test_its_keys_are_those_of_the_published_weights() -> None:
    normed = {f"conv{k}.{name}" for k in (1, 2, 3) for name in ("0.weight", "1.weight", "1.bias")}
    assert set(make().state_dict()) == normed | {"conv5.0.weight"}


def test_its_maps_have_the_published_sizes() -> None:
    side: Any = make()
    x, sizes = torch.rand(1, 3, 32, 32), []
    for layer in (side.conv1, side.conv2, side.conv3, side.conv5):
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 32, 32), (16, 15, 15), (32, 7, 7), (64, 5, 5)]


@pytest.mark.parametrize("size", [(32, 32), (15, 15), (30, 47)])
def test_it_encodes_as_a_vector_of_64_at_any_size(size: tuple[int, int]) -> None:
    assert make(size=(3, *size))({"image": torch.rand(2, 3, *size)}, NO_FEATURES).shape == (2, 64)


@pytest.mark.parametrize("size", [(), (32, 32), (1, 32, 32), (3, 14, 32), (3, 32, 14)])
def test_small_and_grayscale_images_do_not_fit(size: tuple[int, ...]) -> None:
    with pytest.raises(
        FitError, match=r"side 'fcn4' needs an input 'image' of shape \(3, H, W\), H and W at least 15"
    ):
        make(size=size)


@pytest.mark.parametrize("shape", [(32,), (64, 5, 5), (10, 64)])
def test_a_base_of_another_shape_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(FitError, match=r"side 'fcn4' encodes as \(64,\), but the base as"):
        make(base=Plain(shape))


def test_the_forward_pass_equals_one_written_straight_from_the_published_tensors(
    shared_data: Path, home: Path
) -> None:
    shutil.copy(shared_data / "weights" / "fcn4-cifar.pth", home)
    tensors = {
        key: value.double() for key, value in load_tensors(home / "fcn4-cifar.pth")["state_dict"].items()
    }
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    x = (image - mean) / std
    for name, stride, padding in (("conv1", 1, 1), ("conv2", 2, 0), ("conv3", 2, 0)):
        x = functional.conv2d(x, tensors[f"{name}.0.weight"], stride=stride, padding=padding)
        halves = x.unflatten(1, (2, -1))  # (B, group, C / 2, H, W)
        centred = halves - halves.mean((2, 3, 4), keepdim=True)
        x = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
        x = (x * tensors[f"{name}.1.weight"].view(-1, 1, 1) + tensors[f"{name}.1.bias"].view(-1, 1, 1)).clamp(
            min=0
        )
    x = functional.conv2d(x, tensors["conv5.0.weight"]).clamp(min=0)
    encoding = make("authors").double()({"image": image}, NO_FEATURES)
    torch.testing.assert_close(encoding, x.mean((2, 3)), rtol=1e-6, atol=1e-6)


def test_every_published_tensor_is_used(shared_data: Path, home: Path) -> None:
    shutil.copy(shared_data / "weights" / "fcn4-cifar.pth", home)
    published = load_tensors(home / "fcn4-cifar.pth")["state_dict"]
    ours = make("authors").state_dict()
    assert set(ours) == set(published)
    assert all(torch.equal(ours[key], published[key]) for key in ours)


def test_the_published_pickle_is_loaded_by_path_as_by_name(shared_data: Path, home: Path) -> None:
    path = shared_data / "weights" / "fcn4-cifar.pth"
    shutil.copy(path, home)
    by_name = make("authors").state_dict()
    by_path = make(path).state_dict()
    assert by_path.keys() == by_name.keys()
    assert all(torch.equal(by_path[key], by_name[key]) for key in by_name)


def test_a_file_that_is_not_the_published_one_is_refused(shared_data: Path, home: Path) -> None:
    data = bytearray((shared_data / "weights" / "fcn4-cifar.pth").read_bytes())
    data[-1] ^= 1
    (home / "fcn4-cifar.pth").write_bytes(data)
    with pytest.raises(
        WeightsError,
        match=r"fcn4-cifar\.pth is not the published file \(its SHA-256 differs\); delete it and run again",
    ):
        make("authors")


class Touch:
    """Creates a folder when unpickled: foreign code that must not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Rich:
    """Uses every way of filling an object: arguments, state, items, a set, and a call of a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Called(Touch(self.path)), (1,), {"a": 1}, iter([1, 2]), iter([("k", 3)])


class Called:
    """An object that a pickle calls."""

    def __init__(self, inner: Touch) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        return Called, (self.inner,)

    def __call__(self, _: int) -> list[int]:
        return []


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("kind", [Touch, Rich])
def test_code_in_a_pickle_does_not_run_and_its_tensors_are_read(
    kind: Any, new_format: bool, tmp_path: Path
) -> None:
    weights = {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    content = {
        "state_dict": weights,
        "model": kind(tmp_path / "ran"),
        "many": {torch.device("cpu")},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    loaded = load_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
    assert loaded["epoch"] == 3
    assert all(torch.equal(loaded["state_dict"][key], weights[key]) for key in weights)


def test_a_published_file_of_objects_is_loaded_by_its_state_dict(home: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(
        {"model": network, "state_dict": network.state_dict()},
        home / "w.pth",
        _use_new_zipfile_serialization=False,
    )
    sha256 = hashlib.sha256((home / "w.pth").read_bytes()).hexdigest()
    filled = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    load_weights(filled, "authors", owner="w", published=Published("w.pth", "", sha256, holds_objects=True))
    assert not isinstance(load_tensors(home / "w.pth")["model"], torch.nn.Module)
    assert torch.equal(filled[0].weight, network[0].weight)
