"""Runs with a fork that reads the base's weights: resumed, extended, exported, side by side."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import sidetune_core
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.errors import Interrupted
from sidetune_core.serving.export import export_adapter
from sidetune_core.serving.network import random_inputs, write_network
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine
from sidetune_core.training import run as training_run

BLOCKS = 3 * 2
"""Convolutions in the third stage of resnet20."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of 8 x 8 images."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 8), ("test", 4)):
        labels = np.tile(np.arange(6), each)
        images = generator.integers(0, 60, (len(labels), 8, 8, 3)) + 20 * labels[:, None, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


def spec(archive: Path, tasks: int = 3) -> sidetune_core.RunSpec:
    env = {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2}
    return sidetune_core.RunSpec(
        base={"name": "resnet20", "weights": "none"},
        side={"name": "fork", "train": "lora", "rank": 2},
        merger="side",
        learner="sidetune",
        env={**env, "num_tasks": tasks},
        train={"steps": 3, "batch_size": 8},
        device={"precision": "fp32"},
    )


@pytest.fixture(autouse=True)
def no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "git_state", lambda: None)


@pytest.fixture(scope="module")
def whole(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a break; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "git_state", lambda: None)
        return sidetune_core.run(spec(archive), tmp_path_factory.mktemp("runs") / "whole").folder.path


def files(folder: Path) -> dict[str, bytes]:
    """What has to be the same."""
    names = ("eval.jsonl", "metrics.jsonl", "moved.jsonl", "parameters.jsonl", "certificate.json")
    found = {name: (folder / name).read_bytes() for name in names}
    for sub in ("checkpoints", "probes"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in (folder / sub).rglob("*.*")}
    return found


def test_a_checkpoint_has_the_frozen_weights_once(whole: Path) -> None:
    with safe_open(whole / "checkpoints" / "after-002.safetensors", "pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith("sides.")]  # noqa: SIM118
    assert all(name.startswith("sides.t1.") for name in names)
    convs = {name for name in names if "conv" in name}
    assert len(convs) == 2 * BLOCKS
    assert all(".added." in name for name in convs)


def test_the_trained_weights_are_those_added_the_norms_and_the_head(whole: Path) -> None:
    updates = 9 * 2 * (32 + 5 * 64) + BLOCKS * 2 * 64
    counts = RunFolder(whole).read_json("run.json")["parameters"]
    assert counts["trainable"] == updates + BLOCKS * 128
    lines = RunFolder(whole).lines("parameters.jsonl")
    assert [line["trainable"] for line in lines] == [counts["trainable"] + 64 * 2 + 2] * 3


def test_nothing_is_forgotten_and_the_certificate_says_so(whole: Path) -> None:
    certificate = read_certificate(RunFolder(whole))
    assert certificate is not None
    assert {task.verdict for task in certificate.tasks[:2]} == {"zero by construction"}
    assert sidetune_core.verify(whole).problems == ()


def test_the_reads_of_frozen_weights_are_those_of_the_base(whole: Path) -> None:
    certificate = read_certificate(RunFolder(whole))
    assert certificate is not None
    read = certificate.tasks[0].tensors
    assert {f"base.layer3.{block}.conv{n}.weight" for block in range(3) for n in (1, 2)} <= set(read)


def test_a_run_that_is_interrupted_within_a_task_ends_with_the_same_bytes(
    archive: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = iter(range(1000))

    def autocast(machine: Machine) -> Any:
        if next(passes) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.autocast("cpu", torch.bfloat16, enabled=machine.bf16)

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "autocast", autocast)
        with pytest.raises(Interrupted):
            sidetune_core.run(spec(archive), tmp_path / "cut")
    assert list((tmp_path / "cut" / "checkpoints").glob("within*"))
    sidetune_core.resume(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(whole)


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_two_workers_leave_the_files_of_one_process(archive: Path, whole: Path, tmp_path: Path) -> None:
    sidetune_core.run(spec(archive), tmp_path / "two", workers=2)
    assert files(tmp_path / "two") == files(whole)


def test_further_tasks_leave_those_before_as_they_are(archive: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    env = {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 3}
    rows = sidetune_core.extend(run, env, tasks=["t1"], train={"steps": 2}).results.rows
    assert rows[3][:3] == rows[2][:3]
    assert sidetune_core.verify(run).problems == ()


def test_an_adapter_has_what_was_trained_and_loads_with_the_base(whole: Path, tmp_path: Path) -> None:
    exported = export_adapter(whole, "t1", tmp_path / "t1")
    assert exported.base is not None
    with safe_open(tmp_path / "t1" / "adapter.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    assert not [name for name in names if "conv" in name and ".added." not in name]
    model = sidetune_core.load(tmp_path / "t1", base=whole)
    (inputs,) = random_inputs(model.cards["t1"], 3)
    expected = sidetune_core.load(whole).outputs(inputs, "t1")
    assert torch.equal(model.outputs(inputs, "t1"), expected)


def test_the_network_of_a_task_can_be_pickled(whole: Path) -> None:
    network = sidetune_core.load(whole).module("t0")
    inputs = random_inputs(network.card, 3)
    pickled = pickle.dumps(network)
    assert torch.equal(pickle.loads(pickled)(*inputs), network(*inputs))
    frozen = sum(value.numel() for value in network.learner.base.parameters())
    assert len(pickled) < 4 * 1.5 * frozen


def test_the_network_of_a_task_runs_in_other_programs(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    network = sidetune_core.load(whole).module("t0")
    write_network(sidetune_core.load(whole), "t0", path, "torchscript")
    inputs = random_inputs(network.card, 3)
    torch.testing.assert_close(torch.jit.load(path)(*inputs), network(*inputs), rtol=0, atol=1e-5)


def test_a_text_encoder_s_fork_learns_and_forgets_nothing(
    tiny_bert: Path, squad_file: Path, tmp_path: Path
) -> None:
    env = {"train_file": str(squad_file), "max_length": 48, "doc_stride": 16, "num_tasks": 2}
    run = sidetune_core.run(
        sidetune_core.RunSpec(
            base={"name": "transformer", "model": str(tiny_bert)},
            side={"name": "fork", "train": "lora"},
            merger="side",
            env={"name": "squad", "tokenizer": str(tiny_bert), **env},
            train={"steps": 2, "batch_size": 4},
        ),
        tmp_path / "run",
    )
    assert sidetune_core.verify(run.folder.path).problems == ()
    sides: Any = run.learner.sides
    first, second = (dict(sides[task].named_parameters()) for task in sides)
    updates = [name for name in first if name.endswith("intermediate.dense.added.1.weight")]
    assert updates == ["continuation.network.encoder.layer.2.intermediate.dense.added.1.weight"]
    assert all(not torch.equal(value, second[name]) for name, value in first.items())
