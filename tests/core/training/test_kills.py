"""A run that is killed at any moment and then resumed ends with the bytes of one that never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidetune_core.cli.main import main
from sidetune_core.config import registry
from sidetune_core.config.kinds import LEARNER

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, and kills with SIGKILL")

KILLS = 2
Order = Callable[..., dict[str, int]]
LEARNERS = [plugin.name for plugin in registry.installed(LEARNER)]


@pytest.fixture(scope="module")
def server() -> Iterator[Order]:
    """Does one run (see kills/server.py)."""
    path = Path(__file__).parent / "kills" / "server.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def order(**values: Any) -> dict[str, int]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(values), file=process.stdin, flush=True)
            answer: dict[str, int] = json.loads(process.stdout.readline())
            return answer

        yield order


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 8 x 8 images, 11 to train on and 5 to test on of each: no multiple of a batch, so that
    passes overlap in one.
    """
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    labels = {split: np.tile(np.arange(4), each) for split, each in (("train", 11), ("test", 5))}
    images = {
        split: generator.integers(0, 60, (len(y), 8, 8, 3)) + 60 * y[:, None, None, None]
        for split, y in labels.items()
    }
    np.savez(
        path,
        **{f"x_{s}": x.astype(np.uint8) for s, x in images.items()},
        **{f"y_{s}": y for s, y in labels.items()},
    )
    return path


def make_spec(
    archive: Path, learner: str, merger: Any = "alpha", augment: str = "none", **train: Any
) -> dict[str, Any]:
    cls = registry.load(registry.find(LEARNER, learner))
    used = cls.needs | cls.optional_components
    return {
        "base": "tiny:TinyBase",
        "side": "tiny:TinySide" if "side" in used else None,
        "merger": merger if "merger" in used else None,
        "learner": learner,
        "env": {
            "name": "images",
            "archive": str(archive),
            "image_size": 8,
            "classes_per_task": 2,
            "augment": augment,
        },
        "train": {"steps": 7, "batch": 5, "lr": 0.01, **train},
        "seed": 3,
    }


def files(folder: Path) -> dict[str, bytes]:
    """What has to be the same: results, curves, what moved, the certificate, and every checkpoint."""
    names = ["eval.jsonl", "moved.jsonl", "parameters.jsonl", "certificate.json", "certificate.jsonl"]
    optional = (
        "metrics.jsonl",
        "within.jsonl",
    )  # not without gradients; not without evaluations within tasks
    names += [name for name in optional if (folder / name).exists()]
    found = {name: (folder / name).read_bytes() for name in names}
    return found | {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


def kill_and_compare(server: Order, spec: dict[str, Any], folder: Path, save_every: str = "2") -> None:
    whole = server(spec=spec, folder=str(folder / "whole"), save_every="none", kill=0, resume=False)
    assert whole["status"] == 0
    draw = random.Random(json.dumps(spec["train"]) + spec["learner"])
    cut = {"spec": spec, "folder": str(folder / "cut"), "save_every": save_every}
    statuses = []
    for _ in range(KILLS):
        there = (folder / "cut" / "run.json").is_file()  # killed before that, a run has nothing to go on from
        if not there and (folder / "cut").is_dir():
            (folder / "cut").rename(folder / f"cut{len(statuses)}")
        statuses.append(server(**cut, kill=draw.randint(1, whole["moments"]), resume=there)["status"])
    assert -9 in statuses
    assert set(statuses) <= {-9, 0}
    assert server(**cut, kill=0, resume=(folder / "cut" / "run.json").is_file())["status"] == 0
    assert files(folder / "cut") == files(folder / "whole")
    assert (folder / "cut" / "status").read_text() == "done\n"
    hidden = [path.name for path in (folder / "cut").rglob(".*")]
    assert hidden == []


@pytest.mark.parametrize("learner", LEARNERS)
def test_killed_at_random_a_run_of_this_learner_ends_with_the_same_bytes(
    learner: str, server: Order, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_and_compare(server, make_spec(archive, learner), tmp_path)
    exported = []
    for name in ("whole", "cut"):
        assert (
            main(
                [
                    "export",
                    str(tmp_path / name),
                    "--part",
                    "means" if learner in ("ncm", "slda") else "heads",
                    "--out",
                    str(tmp_path / f"{name}.safetensors"),
                ]
            )
            == 0
        )
        exported.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert exported[0] == exported[1]


@pytest.mark.parametrize(
    ("learner", "scenario"),
    [("sidetune", "task"), ("finetune", "task"), ("independent", "task"), ("sidetune", "class")],
)
def test_killed_at_random_an_extension_ends_with_the_same_bytes(
    learner: str, scenario: str, server: Order, archive: Path, tmp_path: Path
) -> None:
    spec, cut = make_spec(archive, learner) | {"scenario": scenario}, tmp_path / "cut"
    added = {"env": spec["env"], "tasks": ["t1", "t0"], "train": {"steps": 5}, "save_every": "2"}
    assert server(spec=spec, folder=str(cut), save_every="2", kill=0, resume=False)["status"] == 0
    shutil.copytree(cut, tmp_path / "whole")
    whole = server(folder=str(tmp_path / "whole"), extend=added, kill=0)
    assert whole["status"] == 0
    draw, statuses = random.Random(learner), []
    for kill in [*(draw.randint(1, whole["moments"]) for _ in range(KILLS)), 0, 0, 0]:
        begun = "extensions" in json.loads((cut / "run.json").read_text())
        if begun or (cut / "status").read_text() != "done\n":
            statuses.append(server(folder=str(cut), resume=True, kill=kill)["status"])
        else:
            statuses.append(server(folder=str(cut), extend=added, kill=kill)["status"])
    assert -9 in statuses
    assert set(statuses) <= {-9, 0}
    assert files(cut) == files(tmp_path / "whole")
    assert (cut / "status").read_text() == "done\n"
    assert [path.name for path in cut.rglob(".*")] == []


@pytest.mark.parametrize(
    ("learner", "how"),
    [
        ("sidetune", {"augment": "crop-flip", "optimizer": "sgd", "schedule": "one-cycle", "steps": 23}),
        (
            "sidetune",
            {
                "merger": {"name": "alpha", "mode": "linear"},
                "optimizer": "adamw",
                "store": "off",
                "channels_last": False,
            },
        ),
        ("features", {"store_limit": 1e-6}),
    ],
    ids=["augmented", "curriculum", "full-store"],
)
def test_killed_at_random_a_run_with_these_options_ends_with_the_same_bytes(
    learner: str, how: dict[str, Any], server: Order, archive: Path, tmp_path: Path
) -> None:
    kill_and_compare(server, make_spec(archive, learner, **how), tmp_path, save_every="3")


def test_killed_at_random_a_class_incremental_run_restores_the_same_best_weights(
    server: Order, archive: Path, tmp_path: Path
) -> None:
    how = {"eval_every": 2, "eval_split": "val", "patience": 2, "select": "best", "steps": 15}
    spec = make_spec(archive, "finetune", **how) | {"scenario": "class"}
    spec["env"]["val_fraction"] = 0.3
    kill_and_compare(server, spec, tmp_path)
    lines = (tmp_path / "cut" / "within.jsonl").read_text().splitlines()
    assert any("restored" in json.loads(line) for line in lines)
