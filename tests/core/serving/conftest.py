"""Runs on digits with random weights and few steps, made once for all tests of a process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidetune_core import RunSpec, run

MakeRun = Callable[..., Path]


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


def content(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
