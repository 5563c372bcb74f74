"""PPO with replay: which rows are used, recomputed advantages, and the loss, against loops in NumPy."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.errors import OptionError
from sidetune_core.rl import PPOOptions, RolloutConfig, Step, VectorEnv

sys.path.insert(0, str(Path(__file__).parent / "rollouts"))

from cue import CueTask  # noqa: E402

ENVS, LENGTH, BATCH = 3, 10, 15
PPO = PPOOptions(
    rollout_length=LENGTH,
    epochs=2,
    gamma=0.9,
    gae_lambda=0.8,
    clip=0.1,
    value_coef=0.3,
    entropy_coef=0.02,
    normalise_advantages=False,
    replay_epochs=4,
    replay_steps=2 * LENGTH,
    recompute_advantages=True,
)
OPTIONS = RolloutConfig(num_envs=ENVS, frames=60, eval_episodes=3, ppo=PPO)
STEPS = 6 * 2
"""Of an update: passes times batches."""


class Recorded(CueTask):
    """Keeps the steps of its environments."""

    def __init__(self, id: str, options: RolloutConfig) -> None:
        super().__init__(id, options)
        self.steps: list[Step] = []

    def make_vector_env(self, count: int) -> VectorEnv:
        vector_env = super().make_vector_env(count)
        step = vector_env.step

        def recording(actions: Tensor) -> Step:
            self.steps.append(step(actions))
            return self.steps[-1]

        vector_env.step = recording  # type: ignore[method-assign]
        return vector_env


class Changing:
    """A policy whose critic changes with every batch: value = (number of batches) + sum of the input."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, inputs: Inputs) -> Tensor:
        cue = inputs["cue"]
        value = self.batches + cue[:, :3].sum(1)
        logits = cue[:, :2] * (0.1 * self.batches)
        return torch.cat([logits, value[:, None]], 1)


def collected(updates: int, options: RolloutConfig = OPTIONS) -> tuple[Recorded, list[Batch]]:
    task, predict, batches = Recorded("t0", options), Changing(), list[Batch]()
    for batch in islice(task.train(predict, Order(0, BATCH)), updates * STEPS):
        batches.append(batch)
        predict.batches += 1
    return task, batches


def test_every_collected_row_is_replayed_equally_often() -> None:
    _, batches = collected(3)
    counts = np.zeros((3, 3 * ENVS * LENGTH), int)  # by update and row
    first = min(int(batch.ids.min()) for batch in batches)
    for number, batch in enumerate(batches):
        np.add.at(counts[number // STEPS], batch.ids.numpy() - first, 1)
    rows = ENVS * LENGTH
    first_update, second, third = counts.reshape(3, 3, rows)
    assert (first_update[0] == 2 + 4).all()  # there is one rollout only
    assert [{*rollout} for rollout in second] == [{2}, {2 + 2}, {0}]  # 4 passes over 2 rollouts
    assert [{*rollout} for rollout in third] == [{0}, {2}, {2 + 2}]


def test_advantages_are_recomputed_with_the_current_critic_in_each_pass() -> None:
    task, batches = collected(2)
    first = min(int(batch.ids.min()) for batch in batches)
    rewards = np.stack([step.rewards.numpy() for step in task.steps])  # (2 T, E)
    ended = np.stack([step.truncated.numpy() for step in task.steps])
    final = iter([step.final_observations["cue"] for step in task.steps if step.truncated.any()])
    finals = {t: next(final).numpy() for t in range(len(rewards)) if ended[t].any()}
    cues = np.zeros((2 * LENGTH + 1, ENVS, 3))
    for t, step in enumerate(task.steps):
        cues[t + 1] = step.observations["cue"][:, :3].numpy()
    cues[0] = rows_of(batches[0:STEPS], first, 0)
    checked = 0
    for number, batch in enumerate(batches):
        update, passed = divmod(number, STEPS)
        made = update * STEPS + (passed // 2) * 2  # batches that the critic had seen at the pass's start
        for row, target in zip(batch.ids.numpy() - first, batch.targets.numpy(), strict=True):
            t, env = divmod(int(row), ENVS)
            collection = t // LENGTH
            if passed < 2:  # the first pass has the values of collection
                if collection < update:
                    continue  # an earlier rollout: values of its latest pass
                made = collection * STEPS
            values = made + cues[:, env].sum(1)
            advantage, decay = 0.0, 1.0
            for k in range(t, (collection + 1) * LENGTH):
                following = values[k + 1]
                if ended[k, env]:
                    which = int(ended[k, :env].sum())
                    following = made + finals[k][which, :3].sum()
                advantage += decay * (rewards[k, env] + 0.9 * following - values[k])
                decay *= 0.9 * 0.8
                if ended[k, env]:
                    break
            np.testing.assert_allclose(target[2], advantage, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(target[3], advantage + values[t], rtol=1e-4, atol=1e-4)
            checked += 1
    assert checked > 2 * STEPS * BATCH * 0.9


def rows_of(batches: list[Batch], first: int, step: int) -> Any:
    cues = np.zeros((ENVS, 3))
    for batch in batches:
        for id, cue in zip(batch.ids.numpy() - first, batch.inputs["cue"].numpy(), strict=True):
            if id // ENVS == step:
                cues[id % ENVS] = cue[:3]
    return cues


def test_the_replayed_loss_weights_by_the_ratio_to_the_policy_of_collection_clipped() -> None:
    task, batches = collected(2)
    batch, now = batches[-1], 0.1 * (len(batches) - 1)
    first = min(int(batch.ids.min()) for batch in batches)
    cue = batch.inputs["cue"].double().numpy()
    output = np.concatenate([cue[:, :2] * now, cue[:, :3].sum(1, keepdims=True)], 1)
    expected = []
    for row, (logits, target) in enumerate(zip(output, batch.targets.double().numpy(), strict=True)):
        action, advantage, goal = int(target[0]), target[2], target[3]
        p = np.exp(logits[:2]) / np.exp(logits[:2]).sum()
        then = cue[row, :2] * (0.1 * STEPS * (int(batch.ids[row] - first) // (ENVS * LENGTH)))
        collected_p = np.exp(then)[action] / np.exp(then).sum()
        ratio = p[action] / collected_p
        gain = min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage)
        expected.append(-gain + 0.3 * (logits[2] - goal) ** 2 + 0.02 * (p * np.log(p)).sum())
    np.testing.assert_allclose(task.loss(torch.from_numpy(output), batch).numpy(), expected, rtol=1e-4)


def test_replayed_steps_have_to_be_whole_rollouts() -> None:
    ppo = attrs.evolve(PPO, replay_steps=15)
    with pytest.raises(
        OptionError, match="--env.ppo.replay-steps 15 .* for example --env.ppo.replay-steps 20"
    ):
        CueTask("t0", attrs.evolve(OPTIONS, ppo=ppo))


def test_the_original_s_preset_replaces_defaults_and_keeps_what_was_set() -> None:
    chosen = RolloutConfig(preset="original", eval_episodes=7, ppo=PPOOptions(clip=0.3)).with_preset()
    ppo = chosen.ppo
    assert (chosen.num_envs, chosen.eval_episodes, chosen.deterministic_eval) == (6, 7, False)
    assert (ppo.rollout_length, ppo.epochs, ppo.replay_epochs, ppo.replay_steps) == (512, 5, 10, 1024)
    assert (ppo.clip, ppo.value_coef, ppo.entropy_coef) == (0.3, 1e-3, 1e-4)
    assert chosen.with_preset() == chosen
    assert chosen.num_envs * ppo.rollout_length == 24 * 128  # mini-batches, with --train.batch-size 128
    assert RolloutConfig().with_preset() == RolloutConfig()


def test_the_preset_s_note_names_what_it_changed_alone() -> None:
    ppo = PPOOptions(clip=0.3, epochs=5, rollout_length=512, replay_epochs=10, replay_steps=1024)
    given = RolloutConfig(preset="original", num_envs=6, ppo=ppo)
    assert given.preset_note() == (
        "preset original sets --env.no-deterministic-eval --env.ppo.recompute-advantages "
        "--env.ppo.value-coef 0.001 --env.ppo.entropy-coef 0.0001"
    )
    assert given.with_preset().preset_note() == ""
    assert RolloutConfig().preset_note() == ""
