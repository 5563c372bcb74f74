"""Training from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import sidetune_core
from sidetune_core.testing import check_plugin


def test_it_keeps_the_contract_without_a_norm() -> None:
    assert [
        finding for finding in check_plugin("learner", "scratch", {"norm": False}) if not finding.passed
    ] == []


def test_it_never_requests_pretrained_weights(world: Any, pretrained: Any) -> None:
    requests: list[bool] = []

    class RecordingBase(pretrained):  # type: ignore[misc]
        def __init__(self, pretrained: bool = True) -> None:
            super().__init__(pretrained)
            requests.append(pretrained)

    learner = world.learner("scratch", base=RecordingBase)
    world.start(learner, world.tasks[0])
    assert requests
    assert not any(requests)


def test_the_result_does_not_depend_on_the_configured_weights(chosen: Any, tmp_path: Path) -> None:
    def run(path: Path, base: sidetune_core.Choice, side: sidetune_core.Choice) -> sidetune_core.Run:
        env, train = {"name": "digits", "num_tasks": 1}, {"steps": 2, "batch": 8, "precision": "fp32"}
        return sidetune_core.run(
            sidetune_core.RunSpec(base=base, side=side, learner="scratch", env=env, train=train), path
        )

    none = {"weights": "none"}
    ours = run(tmp_path / "file", chosen.base, chosen.side).learner.state_dict()
    theirs = run(
        tmp_path / "none", sidetune_core.Choice("resnet20", none), sidetune_core.Choice("fcn4", none)
    ).learner.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_task_draws_weights_of_its_own(world: Any) -> None:
    learner = world.learner("scratch")
    for task in world.tasks[:2]:
        world.start(learner, task)
    assert not torch.equal(learner.bases["t0"].linear.weight, learner.bases["t1"].linear.weight)
