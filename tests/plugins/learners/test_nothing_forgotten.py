"""Learners without shared trainable tensors: later tasks change nothing of earlier ones, bit for bit."""

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
def test_nothing_but_the_current_task_s_tensors_changes_at_any_step(
    name: str, options: dict[str, Any], world: Any
) -> None:
    learner = world.learner(name, **options)
    for task in world.tasks:
        trainable = world.start(learner, task)
        own = {id(tensor) for module in trainable for _, tensor in named_tensors(module)}
        trainable_names = {key for key, tensor in named_tensors(learner) if id(tensor) in own}
        before = snapshot(learner)
        for _ in world.steps(learner, task):
            assert set(changed(before, snapshot(learner))) <= trainable_names


@each
def test_no_task_trains_a_tensor_of_another(name: str, options: dict[str, Any], world: Any) -> None:
    learner = world.learner(name, **options)
    for task in world.tasks:
        trainable = world.start(learner, task)
        keys = {
            key for key, module in learner.named_modules() if any(module is target for target in trainable)
        }
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
        train={"steps": 4, "batch": 8, "precision": "fp32", "evaluate": "all"},
    )
    run = sidetune_core.run(spec, tmp_path / "run")
    rows = run.results.rows
    for j in range(3):
        assert len({rows[i][j] for i in range(j, 3)}) == 1
    lines = [
        line for line in run.folder.lines("eval.jsonl") if line["split"] == "test" and line["after"] >= 0
    ]
    for j in range(3):
        losses = {line["figures"]["loss"] for line in lines if line["task"] == f"t{j}" and line["after"] >= j}
        assert len(losses) == 1
