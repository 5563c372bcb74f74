"""Runs on digits with random weights and few steps, made once for all tests of a process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidetune_core import RunSpec, run
from sidetune_core.assembly.cards import CardStream, CardTask
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import restore
from sidetune_core.certificate.probes import Stored
from sidetune_core.hashing import file_digest
from sidetune_core.serving.adapter_folder import content_digest
from sidetune_core.serving.export import export_adapter
from sidetune_core.serving.source import Trained, read_run
from sidetune_core.storage.run_folder import open_run
from sidetune_core.system.device import Machine

from .hub_server import TOKEN, Hub, running

MakeRun = Callable[..., Path]
Train = Callable[..., Path]
MACHINE = Machine(torch.device("cpu"), bf16=False, channels_last=False)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Trains digits in a new folder; equal arguments give the same folder, which tests do not change."""
    made: dict[str, Path] = {}

    def make(learner: str | Mapping[str, Any] = "sidetune", tasks: int = 2, **others: Any) -> Path:
        values: dict[str, Any] = {
            "learner": learner,
            "base": {"name": "resnet20", "weights": "none"},
            "env": {"name": "digits", "num_tasks": tasks},
            "train": {"steps": 2, "batch_size": 8},
            **others,
        }
        key = repr(values)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            run(RunSpec(**values), made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def digits_run(make_run: MakeRun) -> Path:
    """Two tasks of learner sidetune."""
    return make_run()


def alter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the task.json of an adapter as a stranger would, with a hash that fits."""
    path = folder / "task.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("sha256")
    change(values)
    path.write_text(json.dumps({**values, "sha256": content_digest(values)}), encoding="utf-8")


def record_again(folder: Path, name: str) -> None:
    """Write the size and hash of a file that was changed, as a stranger would."""
    path = folder / name
    about = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    alter(folder, lambda values: values["files"].update({name: about}))


def outputs(trained: Trained, run: Path, task: str) -> Tensor:
    """The outputs of a restored learner for the run's probes of a task."""
    tasks = {name: CardTask(card) for name, card in trained.cards.items()}
    stream = CardStream(list(tasks.values()))
    learner = restore(trained.resolved, stream, list(tasks.values()), trained.state, trained.source, MACHINE)
    stored = Stored.read(run / "probes" / f"{task}.safetensors")
    return make_predict(learner, tasks[task], MACHINE)(stored.as_inputs())


def outputs_of_run(run: Path, task: str) -> Tensor:
    return outputs(read_run(open_run(run)), run, task)


def content(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


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
                "env": {"name": "images", "archive": str(pictures), "classes_per_task": 2, "image_size": 16},
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
