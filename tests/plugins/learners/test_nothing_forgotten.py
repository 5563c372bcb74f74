"""Learners that share nothing that moves: what an earlier task uses is the same bit for bit, at every step of a later one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sidetune_core
from sidetune_core.testing.state import changed, named_tensors, snapshot

each = pytest.mark.parametrize(
    ("name", "options"),
    [("sidetune", {}), ("sidetune", {"dense": True}), ("features", {}), ("independent", {}), ("scratch", {})],
    ids=["sidetune", "sidetune-dense", "features", "independent", "scratch"],
)


@each
def test_all_that_is_not_the_current_task_s_is_the_same_after_every_step(
    name: str, options: dict[str, Any], world: Any
) -> None:
    learner = world.learner(name, **options)
    for task in world.tasks:
        movable = world.start(learner, task)
        own = {id(tensor) for module in movable for _, tensor in named_tensors(module)}
        movable_names = {key for key, tensor in named_tensors(learner) if id(tensor) in own}
        before = snapshot(learner)
        for _ in world.steps(learner, task):
            assert set(changed(before, snapshot(learner))) <= movable_names


@each
def test_no_task_moves_a_tensor_of_another(name: str, options: dict[str, Any], world: Any) -> None:
    learner = world.learner(name, **options)
    for task in world.tasks:
        movable = world.start(learner, task)
        keys = {key for key, module in learner.named_modules() if any(module is one for one in movable)}
        assert keys
        assert all(key.endswith(f".{task.id}") for key in keys)


@each
def test_r_is_constant_below_its_diagonal(
    name: str, options: dict[str, Any], chosen: Any, tmp_path: Path
) -> None:
    spec = sidetune_core.RunSpec(
        base=chosen.base,
        side=None if name == "features" else chosen.side,
        learner={"name": name, **options},
        env={"name": "digits", "num_tasks": 3},
        train={"steps": 4, "batch": 8, "precision": "fp32"},
    )
    run = sidetune_core.run(spec, tmp_path / "run")
    rows = run.results.rows
    for j in range(3):
        assert len({rows[i][j] for i in range(j, 3)}) == 1
    figures = [
        line for line in run.folder.lines("eval.jsonl") if line["split"] == "test" and line["after"] >= 0
    ]
    for j in range(3):
        losses = {
            line["figures"]["loss"] for line in figures if line["task"] == f"t{j}" and line["after"] >= j
        }
        assert len(losses) == 1
