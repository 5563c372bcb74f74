"""Independent tasks trained side by side in worker processes: the same bytes as one after another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sidetune_core
from sidetune_core.training import run as training_run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")

TINY = Path(__file__).parent / "kills"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TINY)
    monkeypatch.syspath_prepend(str(TINY))
    monkeypatch.setattr(training_run, "_git_state", lambda: None)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of 8 x 8 images."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 11), ("test", 5)):
        labels = np.tile(np.arange(8), each)
        images = generator.integers(0, 60, (len(labels), 8, 8, 3)) + 20 * labels[:, None, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def make_spec(archive: Path) -> Any:
    def make(learner: Any = "sidetune", cache: str = "memory", **train: Any) -> sidetune_core.RunSpec:
        env = {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2}
        return sidetune_core.RunSpec(
            base="tiny:TinyBase",
            side="tiny:TinySide",
            merger="alpha",
            learner=learner,
            env=env,
            train={"steps": 25, "batch_size": 5, **train},
            cache={"mode": cache},
            device={"precision": "fp32"},
            seed=3,
        )

    return make


def files(folder: Path) -> dict[str, bytes]:
    """What has to be the same."""
    names = ("eval.jsonl", "metrics.jsonl", "moved.jsonl", "parameters.jsonl", "certificate.json")
    found = {name: (folder / name).read_bytes() for name in names}
    for sub in ("checkpoints", "probes", "tasks", "documents"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in (folder / sub).rglob("*.*")}
    return found


def test_two_workers_leave_the_files_of_one_process(make_spec: Any, tmp_path: Path) -> None:
    sidetune_core.run(make_spec(), tmp_path / "one")
    sidetune_core.run(make_spec(), tmp_path / "two", workers=2)
    assert files(tmp_path / "two") == files(tmp_path / "one")
