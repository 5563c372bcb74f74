"""Fixtures for the tests of the example packages: whole runs, also in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sidetune_core.storage.chain import Chain

SERVER = Path(__file__).parents[1] / "tests" / "core" / "distributed" / "torchrun" / "server.py"

Train = Callable[..., list[dict[str, Tensor]]]


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    """Forks the processes of runs, since importing torch for each takes seconds."""
    with subprocess.Popen(
        [sys.executable, SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process


@pytest.fixture
def train(server: subprocess.Popen[str], tmp_path: Path) -> Train:
    """Trains a learner on two tasks of two classes; returns the weights after each.

    Keyword arguments are options of ``--train``. The base is `conv`, without batch norm and dropout, or
    ``dropping:DropBase`` with both. With `stop_after`, the run is killed after as many batches have been
    computed, and resumed.
    """
    random = np.random.default_rng(0)
    labels = {split: np.tile(np.arange(4), number) for split, number in (("train", 9), ("test", 3))}
    archive, folders = tmp_path / "images.npz", count()
    pixels = {
        f"x_{split}": random.integers(0, 128, (len(values), 8, 8, 3)) + 32 * values[:, None, None, None]
        for split, values in labels.items()
    }
    np.savez(
        archive,
        names=np.array(["blue", "green", "red", "white"]),
        **{name: values.astype(np.uint8) for name, values in pixels.items()},
        **{f"y_{split}": values for split, values in labels.items()},
    )

    def run(**order: Any) -> list[dict[str, Any]]:
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps({"spec": None, "save_every": "1", **order}), file=server.stdin, flush=True)
        answers: list[dict[str, Any]] = json.loads(server.stdout.readline())
        return answers

    def train(
        learner: str,
        options: dict[str, Any] | None = None,
        *,
        base: str = "conv",
        processes: int = 1,
        stop_after: int | None = None,
        **values: Any,
    ) -> list[dict[str, Tensor]]:
        folder = tmp_path / f"run-{next(folders)}"
        spec = {
            "base": base,
            "learner": {"name": learner, **(options or {})},
            "env": {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2},
            "train": {"steps": 6, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", **values},
            "device": {"precision": "fp32"},
            "seed": 3,
        }
        order: dict[str, Any] = {"processes": processes, "folder": str(folder)}
        if stop_after is not None:
            (killed,) = run(**order, spec=spec, harm="SIGKILL", rank=0, at=stop_after)
            assert killed["status"] == -9
            spec = None  # type: ignore[assignment]
        answers = run(**order, spec=spec)
        assert [answer["status"] for answer in answers] == [0] * processes, answers
        chains = [Chain.open(folder / "checkpoints" / f"after-00{task}.safetensors") for task in (1, 2)]
        return [chain.read(chain.tensors.newest) for chain in chains]

    return train
