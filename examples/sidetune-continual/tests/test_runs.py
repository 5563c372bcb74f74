"""Whole runs: micro-batches, processes, and resuming."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.testing import check_plugin

Train = Callable[..., list[dict[str, Tensor]]]

LEARNERS: dict[str, dict[str, Any]] = {
    "agem": {"memory": 12, "sample": 8},
    "bic": {"exemplars": 12, "held_out": 0.25},
    "gem": {"memory": 12},
    "gpm": {"examples": 12},
    "hat": {"width": 12},
    "icarl": {"exemplars": 12},
    "l2p": {"pool": 4, "select": 2, "length": 2},
    "packnet": {"prune": 0.5},
    "si": {"coef": 1.0},
}

CORE = Path(__file__).parents[3] / "tests" / "core"
"""The folder with the base in `BASES` below it."""

BASES = {"l2p": "attending:Attention"}
"""The bases of learners that do not fit every one."""

posix = pytest.mark.skipif(os.name != "posix", reason="forks processes")
each_learner = pytest.mark.parametrize("learner", LEARNERS)


@each_learner
def test_it_conforms(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORE / "distributed" / "torchrun")
    monkeypatch.syspath_prepend(str(CORE / "training" / "kills"))
    components = {"base": {"name": BASES[learner]}} if learner in BASES else None
    findings = check_plugin("learner", f"sidetune-continual/{learner}", components=components)
    assert [finding for finding in findings if not finding.passed] == []


@posix
@each_learner
def test_micro_batches_give_the_weights_of_one_batch(learner: str, train: Train) -> None:
    base = BASES.get(learner, "conv")
    whole = train(learner, LEARNERS[learner], base=base)
    parts = train(learner, LEARNERS[learner], base=base, batch_size=4, accumulate=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@posix
@each_learner
def test_two_processes_give_the_weights_of_one(learner: str, train: Train) -> None:
    """With batch norm, dropout, batches of odd size, and micro-batches."""
    one, two = (
        train(
            learner,
            LEARNERS[learner],
            base=BASES.get(learner, "dropping:DropBase"),
            processes=processes,
            batch_size=3,
            accumulate=2,
        )
        for processes in (1, 2)
    )
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@posix
@each_learner
def test_a_killed_run_resumes_to_the_same_bits(learner: str, train: Train) -> None:
    """Killed in both tasks, each of six steps; PackNet prunes before the fifth of each."""
    base = BASES.get(learner, "dropping:DropBase")
    options = {"base": base, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1}
    whole = train(learner, LEARNERS[learner], **options)
    for batches in (3, 5, 8, 11):
        resumed = train(learner, LEARNERS[learner], stop_after=batches, **options)
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@posix
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_packnet_keeps_the_weights_of_a_task_bit_for_bit(optimizer: str, train: Train) -> None:
    first, last = train("packnet", LEARNERS["packnet"], optimizer=optimizer, weight_decay=0.5, lr=0.01)
    owners = {name: tensor for name, tensor in first.items() if name.startswith("owners.")}
    changed = 0
    for name, owner in owners.items():
        before, after = (weights[name.replace("owners", "base")] for weights in (first, last))
        assert torch.equal(before[owner == 1], after[owner == 1])
        changed += int((before != after).sum())
    assert changed
    assert [
        name for name in first if name.startswith("heads.t0") and not torch.equal(first[name], last[name])
    ] == []
