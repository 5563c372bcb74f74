"""DAgger: what the expert labels, how often it is asked, and interrupted runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import api, demonstrations
from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.rl import FollowsActions, Observations

sys.path.insert(0, str(Path(__file__).parents[3] / "core" / "rl" / "rollouts"))

Imitation: Any = registry.load(registry.find(ENV, "imitation"))
CUES = {"name": "cue:Cues", "eval_episodes": 4, "num_envs": 2}
STEPS = 5
"""Of an episode of a cue."""
DAGGER = {"dagger_rounds": 2, "dagger_interval": 6, "dagger_episodes": 3}
ENV_OPTIONS = {"val_trajectories": 4, "max_trajectories": 4, "eval_episodes": 4, "num_envs": 2, **DAGGER}


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trajectories of the oracle."""
    folder = tmp_path_factory.mktemp("cues")
    return demonstrations.record_demonstrations(CUES, folder, 8, task="t0", quiet=True).folder


def make_task(folder: Path, **options: Any) -> Any:
    values = {"root": [str(folder)], **ENV_OPTIONS, **options}
    env = Imitation(structure(Imitation.Config, values, "env 'imitation'"), 0)
    env.trust_local_code = True  # of the recorded env
    (task,) = env.tasks()
    return task


def wrong(inputs: Inputs) -> Tensor:
    """Logits of the action that the cue does not name."""
    return -8.0 * inputs["cue"][:, :2]


def drawn(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def test_the_expert_labels_what_the_policy_visits_before_each_round(cues: Path) -> None:
    task = make_task(cues)
    batches = task.train(wrong, Order(0, 10))
    recorded = drawn(batches, 6)
    assert task.record()["expert_queries"] == 0
    assert {*torch.cat([batch.ids for batch in recorded]).tolist()} == {*range(20, 40)}
    first = drawn(batches, 6)
    assert task.record() == {"dagger_rounds": 1, "labelled_steps": 15, "expert_queries": 15, "aborted": 0}
    second = drawn(batches, 40)
    assert task.record()["expert_queries"] == 30
    labelled = {*torch.cat([batch.ids for batch in second]).tolist()} - {*range(20, 40)}
    assert len(labelled) == 30
    assert {*torch.cat([batch.ids for batch in first]).tolist()} - {*range(20, 40)} < labelled
    for batch in (*first, *second):  # whatever the policy did
        assert torch.equal(batch.targets[:, 0], batch.inputs["cue"][:, :2].argmax(1).float())


def test_without_rounds_it_is_cloning(cues: Path) -> None:
    plain = make_task(cues, dagger_rounds=0)
    before = drawn(plain.train(wrong, Order(3, 7)), 6)
    now = drawn(make_task(cues).train(wrong, Order(3, 7)), 6)
    for one, other in zip(before, now, strict=True):
        assert torch.equal(one.ids, other.ids)
    assert plain.record() == {}
    assert plain.state() == {}


@pytest.mark.parametrize("step", [5, 6, 9, 12, 20])
def test_training_resumes_anywhere_with_the_same_batches(cues: Path, step: int) -> None:
    whole = make_task(cues)
    expected = drawn(whole.train(wrong, Order(1, 8)), 24)
    begun = make_task(cues)
    drawn(begun.train(wrong, Order(1, 8)), step)
    again = make_task(cues)
    again.set_state(begun.state())
    resumed = drawn(again.train(wrong, Order(1, 8, step)), 24 - step)
    for one, other in zip(expected[step:], resumed, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.inputs["cue"], other.inputs["cue"])
        assert torch.equal(one.targets, other.targets)


def test_a_run_that_was_interrupted_between_rounds_ends_with_the_same_bytes(
    cues: Path, tmp_path: Path
) -> None:
    env = {"name": "imitation", "root": [str(cues)], **ENV_OPTIONS}
    spec = sidetune_core.RunSpec(
        base="mlp",
        learner="finetune",
        env=env,
        train={"steps": 16, "batch_size": 10, "lr": 1e-2},
        trust_local_code=True,
    )
    whole = sidetune_core.run(spec, tmp_path / "whole")
    metrics = list(whole.folder.lines("eval.jsonl"))[-1]["figures"]
    assert metrics["expert_queries"] == 30

    cut = tmp_path / "cut"
    task_class = type(make_task(cues))
    label, count = task_class._label, 0

    def fails(self: Any, predict: Any, seed: int) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return label(self, predict, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_class, "_label", fails)
        with pytest.raises(KeyboardInterrupt):
            sidetune_core.run(spec, cut, save_every="3")
    sidetune_core.resume(cut, trust_local_code=True)
    assert (cut / "eval.jsonl").read_bytes() == (tmp_path / "whole" / "eval.jsonl").read_bytes()
    (newest,) = sorted((tmp_path / "whole" / "checkpoints").glob("after-*.safetensors"))[-1:]
    assert (cut / "checkpoints" / newest.name).read_bytes() == newest.read_bytes()


def test_a_run_and_a_policy_file_need_to_be_named_as_expert(cues: Path, tmp_path: Path) -> None:
    with pytest.raises(api.OptionError, match=r"no expert of cue t0.*Experts of cue t0: oracle, coin"):
        make_task(cues, expert="orakle")
    with pytest.raises(api.OptionError, match="pass --env.dagger-rounds 5"):
        make_task(cues, dagger_rounds=0, expert="oracle")


def test_an_expert_that_aborts_is_counted(cues: Path) -> None:
    task = make_task(cues, expert="coin", dagger_episodes=12)
    drawn(task.train(wrong, Order(0, 8)), 13)
    found = task.record()
    assert found["aborted"] > 0
    assert found["labelled_steps"] == STEPS * (24 - found["aborted"])
    assert found["expert_queries"] == found["labelled_steps"] + found["aborted"]


def test_the_bot_s_label_follows_the_actions_that_were_taken(tmp_path: Path) -> None:
    env = {"name": "gym", "ids": ["BabyAI-GoToRedBallNoDists-v0"], "inputs": ["image"], "view": "pixels"}
    recorded = demonstrations.record_demonstrations(env, tmp_path, 2, quiet=True)
    task = recorded.task(recorded.open_stream(True))
    bot: Any = task.expert("bot")
    assert isinstance(bot, FollowsActions)
    vector_env = task.make_vector_env(1)
    observations: Observations = vector_env.reset(3)
    bot.begin(vector_env, 0)
    for action in (0, 0, 1, 0, 0, 0):  # turns, whatever the bot says
        bot.act(observations)
        bot.took(torch.tensor([[float(action)]]))
        observations = vector_env.step(torch.tensor([[float(action)]])).observations
    for _ in range(60):  # from there the bot arrives
        action = bot.act(observations)
        step = vector_env.step(action)
        observations = step.observations
        if step.ended.any():
            break
    assert bool(step.success)
    vector_env.close()


def test_the_policy_of_a_run_labels_steps(cues: Path, tmp_path: Path) -> None:
    spec = sidetune_core.RunSpec(
        base="mlp",
        learner="scratch",
        env={**CUES, "frames": 256, "ppo": {"rollout_length": 10}},
        train={"batch_size": 20},
        trust_local_code=True,
    )
    first = sidetune_core.run(spec, tmp_path / "first")
    run = sidetune_core.extend(  # of the same title: the last one labels
        first, spec.env, tasks=["t0"], out=tmp_path / "run", trust_local_code=True
    )
    last = run.tasks[-1].id
    assert last not in {task.id for task in first.tasks}
    task = make_task(cues, expert=str(run.folder.path))
    batch = drawn(task.train(wrong, Order(0, 35)), 7)[-1]
    model = sidetune_core.load(tmp_path / "run", trust_local_code=True)
    labelled = batch.ids >= 2**32
    observations = [{"cue": row} for row in batch.inputs["cue"][labelled].numpy()]
    actions = torch.tensor([float(action[0]) for action in model.act(observations, last, deterministic=True)])
    assert labelled.sum() == 15
    assert torch.equal(batch.targets[labelled][:, 0], actions)
