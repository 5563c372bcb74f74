"""Runs that are made once, and a local hub."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidetune_core import RunSpec, run
from sidetune_core.serving.adapter import export_adapter

sys.path.insert(0, str(Path(__file__).parent))  # for the modules of helpers in this folder
from hub_server import TOKEN, Hub, running

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of 16 x 16 images, an archive for env images."""
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (6, 3))

    def images(count: int) -> Any:
        labels = np.tile(np.arange(6), count)
        noise = draw.integers(-30, 31, (len(labels), 16, 16, 3))
        return (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = images(8), images(4)
    names = np.array(["ant", "bee", "cat", "dog", "elk", "fox"])
    path = tmp_path_factory.mktemp("private-folder") / "pictures.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, names=names)
    return path


@pytest.fixture(scope="session")
def train(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Makes runs of three tasks with two classes each, each run once: t0, t1, t2, two steps each.

    Args: components of a `RunSpec`, by default a random resnet20 and side-tuning, and the seed.
    """
    made: dict[str, Path] = {}

    def make(**components: Any) -> Path:
        key = json.dumps(components, sort_keys=True)
        if key not in made:
            values: dict[str, Any] = {
                "base": {"name": "resnet20", "weights": "none"},
                "learner": "sidetune",
                "side": {"name": "fcn4", "weights": "none"} if "learner" not in components else None,
                "env": {"name": "images", "archive": str(pictures), "classes_per_task": 2},
                "train": {"steps": 2, "batch_size": 4},
                "device": {"name": "cpu", "precision": "fp32"},
                **components,
            }
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            run(RunSpec(**values), made[key], quiet=True)
        return made[key]

    return make


@pytest.fixture(scope="session")
def exported(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of task t1, with its base; not to be changed."""
    return export_adapter(train(), "t1", tmp_path_factory.mktemp("exported") / "a", with_base=True).folder


@pytest.fixture
def adapter(exported: Path, tmp_path: Path) -> Path:
    """A copy of an adapter of task t1, with its base."""
    return Path(shutil.copytree(exported, tmp_path / "adapter"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this computer, where huggingface_hub looks for it, with an empty cache."""
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of its own
        yield server
