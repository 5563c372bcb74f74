"""All tasks at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sidetune_core
from sidetune_core.testing import check_plugin

OPTIONS = [{"norm": False, "batchnorm": "frozen"}, {"batchnorm": "per-task"}]
"""The defaults are checked with those of all plugins (tests/core/testing/test_plugin.py)."""


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    assert [finding for finding in check_plugin("learner", "joint", options) if not finding.passed] == []


def run(path: Path, chosen: Any, **options: Any) -> sidetune_core.Run:
    env, train = {"name": "digits", "num_tasks": 3}, {"steps": 4, "batch": 8, "precision": "fp32"}
    return sidetune_core.run(
        sidetune_core.RunSpec(base=chosen.base, learner={"name": "joint", **options}, env=env, train=train),
        path,
    )


@pytest.mark.parametrize("batchnorm", ["trained", "frozen", "per-task"])
def test_one_stage_trains_the_base_and_the_heads_of_all_tasks(
    batchnorm: str, chosen: Any, tmp_path: Path
) -> None:
    done = run(tmp_path / "run", chosen, batchnorm=batchnorm)
    (stage,) = done.folder.lines("moved.jsonl")
    assert {"base.conv1.weight", *(f"heads.t{k}.linear.weight" for k in range(3))} <= set(stage["moved"])


def test_a_batch_of_each_task_comes_in_turn(chosen: Any, tmp_path: Path) -> None:
    done = run(tmp_path / "run", chosen)
    steps = done.folder.lines("metrics.jsonl")
    assert steps[-1]["step"] == 12  # 4 steps for each of 3 tasks
    assert steps[-1]["task"] == "t2"


def test_all_tasks_share_one_base(world: Any) -> None:
    learner = world.learner("joint")
    trainable = [world.start(learner, task) for task in world.tasks]
    assert [modules[0] for modules in trainable] == [learner.base] * 3


def test_with_norms_of_each_task_all_of_them_are_trained(chosen: Any, tmp_path: Path) -> None:
    learner = run(tmp_path / "run", chosen, batchnorm="per-task").learner
    means = [learner.norms[f"t{k}"][0].running_mean for k in range(3)]
    assert not any(torch.equal(mean, learner.base.bn1.running_mean) for mean in means)
