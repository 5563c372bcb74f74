"""Policies with memory in env imitation: windows, resume, and episodes."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from sidetune_plugins.envs.imitation.task import CloningOptions, ImitationTask
from sidetune_plugins.envs.imitation.windows import Windows
from torch import Tensor, nn

import sidetune_core
from sidetune_core.api import Heads, Inputs, OptionError, Order
from sidetune_core.demonstrations import Trajectories
from sidetune_core.rl import POSITION, STATE, PPOOptions, RolloutConfig

sys.path.insert(0, str(Path(__file__).parents[3] / "core" / "rl" / "rollouts"))

from recall import LENGTH, RecallTask

SIZE = 6
OPTIONS = CloningOptions(8, 4, True, "return", 16, 1, memory=SIZE, memory_window=5)


def recalled(count: int) -> Trajectories:
    """Episodes of an expert that takes the first observation's action in each step."""
    cues = torch.arange(count) % 2
    shown = torch.zeros(count, LENGTH, 2)
    shown[torch.arange(count), 0, cues] = 1.0
    steps = torch.zeros(count * LENGTH)
    return Trajectories(
        observations={"cue": shown.reshape(-1, 2)},
        actions=cues.repeat_interleave(LENGTH)[:, None].float(),
        rewards=steps,
        terminated=steps.bool(),
        truncated=steps.bool(),
        final={},
        lengths=torch.full((count,), LENGTH),
        success=torch.ones(count, dtype=torch.bool),
        seeds=torch.arange(count),
    )


def make_task(options: CloningOptions = OPTIONS) -> ImitationTask:
    rollout_task = RecallTask(RolloutConfig(ppo=PPOOptions(rollout_length=8)))
    return ImitationTask("t0", rollout_task, recalled(9), recalled(3), 0, options)


def make_predict(task: ImitationTask) -> tuple[Heads, Any]:
    torch.manual_seed(0)
    heads = Heads((2,), norm=False)
    heads.add_task(task)

    def predict(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return heads.predict(inputs["cue"], "t0", inputs)

    return heads, predict


def single_states(head: nn.Module, cues: Tensor) -> Tensor:
    """The state before each step of an episode (T, 2), step by step."""
    state, before = torch.zeros(1, SIZE), []
    for cue in cues:
        before.append(state)
        with torch.no_grad():
            state = head(cue[None], {STATE: state})[:, 2:]
    return torch.cat(before)


def test_windows_begin_with_the_states_that_single_steps_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidetune_plugins.envs.imitation.windows.ROWS", 7)  # cuts trajectories
    task = make_task()
    heads, predict = make_predict(task)
    (batch,) = islice(task.train(predict, Order(0, 10)), 1)
    assert len(batch.ids) == 10  # two windows of five steps
    cues = recalled(9).observations["cue"].reshape(9, LENGTH, 2)
    expected = torch.cat([single_states(heads.get_submodule("t0"), one) for one in cues])
    steps = batch.ids - 12  # the held-out steps have the first ids
    torch.testing.assert_close(batch.inputs.context[STATE], expected[steps])
    follows = batch.inputs.context[POSITION].diff() == 1
    assert follows.tolist() == [
        bool(later == step + 1 and later % LENGTH) for step, later in zip(steps, steps[1:], strict=False)
    ]


def test_a_pass_has_every_step_and_the_last_window_is_whole() -> None:
    windows = Windows(torch.tensor([3, 1, 7]), 4, 2)
    assert windows.rows(torch.arange(len(windows))).tolist() == [*range(8), 7, 8, 9, 10]
    assert windows.interval(9) == 2
    with pytest.raises(OptionError, match="--train.batch-size 3 is less than --env.memory-window 4"):
        windows.interval(3)


def test_held_out_steps_are_evaluated_with_the_state_of_their_trajectory() -> None:
    task = make_task()
    heads, predict = make_predict(task)
    held = recalled(3)
    outputs = []
    for cues in held.observations["cue"].reshape(3, LENGTH, 2):
        with torch.no_grad():
            outputs.append(
                heads.get_submodule("t0")(cues, {STATE: single_states(heads.get_submodule("t0"), cues)})[
                    :, :2
                ]
            )
    expected = nn.functional.cross_entropy(torch.cat(outputs), held.actions[:, 0].long())
    assert task.evaluate(predict)["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of the expert."""
    path = tmp_path_factory.mktemp("recall") / "recall.npz"
    recorded = recalled(24)
    np.savez(
        path,
        observations=recorded.observations["cue"].numpy(),
        actions=recorded.actions.numpy(),
        lengths=recorded.lengths.numpy(),
    )
    return path


def spec(path: Path, steps: int = 90, **options: Any) -> sidetune_core.RunSpec:
    env = {"name": "imitation", "root": [str(path)], "of": "recall:Recall", "val_trajectories": 4}
    env |= {"eval_episodes": 32, "deterministic_eval": True, "metric": "return", **options}
    train = {"steps": steps, "batch_size": 32, "lr": 2e-2}
    return sidetune_core.RunSpec(base="mlp", learner="scratch", env=env, train=train, trust_local_code=True)


def test_an_expert_with_memory_is_imitated_with_it_only_and_an_actor_keeps_the_state(
    demonstrations: Path, tmp_path: Path
) -> None:
    runs = {
        size: sidetune_core.run(spec(demonstrations, memory=size, memory_window=8), tmp_path / str(size))
        for size in (8, 0)
    }
    returns = {size: run.results.rows[-1][0] for size, run in runs.items()}
    assert returns[8] == 1.0
    assert returns[0] < 0.75
    actor = sidetune_core.load(tmp_path / "8", trust_local_code=True).actor()
    for first in (0, 1, 1, 0):
        actor.reset()
        for step in range(LENGTH):
            cue = np.zeros(2, np.float32)
            cue[first] = step == 0
            action = actor.act({"cue": cue})
        assert action == first
    assert actor.predict({"cue": cue}).value is None  # there is no critic


def test_a_run_that_is_interrupted_within_a_pass_ends_with_the_same_bytes(
    demonstrations: Path, tmp_path: Path
) -> None:
    short = spec(demonstrations, steps=8, memory=4, memory_window=8)
    whole = sidetune_core.run(short, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        loss, count = ImitationTask.loss, 0

        def fails(self: Any, output: Tensor, batch: Any) -> Tensor:
            nonlocal count
            count += output.requires_grad
            if count == 6:
                raise KeyboardInterrupt
            return loss(self, output, batch)

        patch.setattr(ImitationTask, "loss", fails)
        with pytest.raises(KeyboardInterrupt):
            sidetune_core.run(short, tmp_path / "cut", save_every="1")
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    for name in ("eval.jsonl", "checkpoints/after-001.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.folder.path / name).read_bytes()


def test_rounds_of_dagger_are_refused(demonstrations: Path) -> None:
    with pytest.raises(OptionError, match="leave out one of them"):
        sidetune_core.run(spec(demonstrations, memory=4, dagger_rounds=1, expert="x"))


def test_without_memory_nothing_is_added() -> None:
    task = make_task(attrs.evolve(OPTIONS, memory=0))
    _, predict = make_predict(task)
    (batch,) = islice(task.train(predict, Order(0, 10)), 1)
    assert batch.inputs.context == {}
    assert task.can_resume_at(1, 10)
