"""A run caches the taps that its side and its learner read, in every way of running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sidetune_core
from sidetune_core.errors import PluginError
from sidetune_core.storage.weights import read_tensors

CODE = '''
import attrs
import torch
from torch import nn
from sidetune_core.api import Base, Features, Side, option


class ThreeTaps(Base):
    """``image`` (3, 8, 8) to (16,), with taps (4, 8, 8), (6, 4, 4) and (8, 2, 2)."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config, inputs):
        super().__init__()
        self.shape, self.tap_shapes = (16,), ((4, 8, 8), (6, 4, 4), (8, 2, 2))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1)])
            self.layers += [nn.Conv2d(6, 8, 3, 2, 1), nn.Linear(32, 16)]

    def forward(self, inputs):
        taps = [inputs["image"]]
        for layer in self.layers[:3]:
            taps.append(layer(taps[-1]).relu())
        return Features(self.layers[3](taps[-1].flatten(1)), tuple(taps[1:]))


class OneTap(Side):
    """A linear layer on the tap ``read``."""

    @attrs.frozen
    class Config:
        """Options of the side."""

        declared: str = option("1", "'1', or 'all'")
        read: int = option(1, "index of the tap")

    needs_taps = True

    def __init__(self, config, inputs, base):
        super().__init__()
        self.tap_indices = (1,) if config.declared == "1" else None
        self._read = config.read
        size = torch.Size(base.tap_shapes[config.read]).numel()
        self.line = nn.Linear(size, base.shape[0])

    def forward(self, inputs, features):
        return self.line(features.taps[self._read].flatten(1))
'''


@pytest.fixture(autouse=True)
def code_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tapped.py").write_text(CODE)
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 10), ("test", 4)):
        labels = np.tile(np.arange(6), each)
        noise = random.integers(0, 60, (len(labels), 8, 8, 3))
        arrays[f"x_{split}"] = (noise + 30 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez("images.npz", **arrays)


def env(tasks: int | None = 2) -> dict[str, Any]:
    size = {"classes_per_task": 2, "image_size": 8, "num_tasks": tasks}
    return {"name": "images", "archive": "images.npz", **size}


def spec(declared: str = "1", read: int = 1, learner: str = "sidetune") -> sidetune_core.RunSpec:
    side: Any = {"name": "tapped:OneTap", "declared": declared, "read": read}
    return sidetune_core.RunSpec(
        base="tapped:ThreeTaps",
        side=side if learner == "sidetune" else "conv",
        learner=learner,
        env=env(),
        train={"steps": 3, "batch_size": 5},
        cache={"mode": "disk", "dir": "cache"},
        device={"name": "cpu", "precision": "fp32"},
    )


def cached_columns() -> set[tuple[tuple[int, ...], ...]]:
    """The shapes of the rows in each file of the cache."""
    found = set()
    for path in Path("cache").glob("*/*.safetensors"):
        columns = [value for name, value in sorted(read_tensors(path).items()) if name.startswith("column")]
        found.add(tuple(tuple(column.shape[1:]) for column in columns))
    return found


def test_a_run_with_one_tap_has_the_results_of_all_taps_and_a_smaller_cache() -> None:
    one = sidetune_core.run(spec(), "one")
    assert cached_columns() == {((16,), (6, 4, 4))}
    every = sidetune_core.run(spec("all"), "all")
    assert cached_columns() == {((16,), (6, 4, 4)), ((16,), (4, 8, 8), (6, 4, 4), (8, 2, 2))}
    assert Path("one/eval.jsonl").read_bytes() == Path("all/eval.jsonl").read_bytes()
    states = one.learner.state_dict(), every.learner.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_workers_an_extension_and_a_loaded_model_read_the_same_tap() -> None:
    sidetune_core.run(spec(), "alone")
    sidetune_core.run(spec(), "workers", workers=2)
    assert Path("alone/eval.jsonl").read_bytes() == Path("workers/eval.jsonl").read_bytes()
    sidetune_core.extend("alone", env(None), tasks=("t2",), trust_local_code=True)
    assert cached_columns() == {((16,), (6, 4, 4))}
    model = sidetune_core.load("alone", trust_local_code=True)
    image = np.load("images.npz")["x_test"][0]
    assert len(model.predict(image, task="t0").probabilities) == 2
    assert len(model.predict(image, task="t2").probabilities) == 2


def test_a_learner_that_reads_taps_itself_keeps_all_of_them() -> None:
    sidetune_core.run(spec(learner="pnn"), "run")
    assert cached_columns() == {((16,), (4, 8, 8), (6, 4, 4), (8, 2, 2))}


def test_a_side_that_reads_another_tap_is_an_error_before_data_is_read() -> None:
    Path("images.npz").unlink()
    with pytest.raises(PluginError, match=r"reads tap 2 of the base and sets tap_indices = \(1,\)"):
        sidetune_core.run(spec(read=2), "run")
