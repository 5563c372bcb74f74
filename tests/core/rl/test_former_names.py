"""Environments written against version 0.1 run under the former names, with a deprecation warning."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import attrs
import pytest
import torch

from sidetune_core import api, rl
from sidetune_core.api import Order, option

sys.path.insert(0, str(Path(__file__).parent / "rollouts"))

from cue import CueTask  # noqa: E402

NEW = rl.RolloutConfig(
    num_envs=4,
    frames=80,
    eval_episodes=6,
    deterministic_eval=False,
    ppo=rl.PPOOptions(rollout_length=10, epochs=3, value_clip=0.5, hidden_size=8, hidden_layers=0),
)


def test_a_config_that_inherits_rollout_options_works_as_before_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="RolloutOptions is now"):
        former = api.RolloutOptions
    with pytest.warns(
        DeprecationWarning, match=r"Config inherits RolloutOptions.* inherit sidetune_core.rl.RolloutConfig"
    ):

        @attrs.frozen
        class Config(former):  # type: ignore[misc, valid-type]
            length: int = option(5, "an option of its own")

    config = Config(
        envs=4,
        rollout=10,
        frames=80,
        passes=3,
        clip_value=0.5,
        hidden=8,
        layers=0,
        episodes=6,
        evaluate="sample",
    )
    assert config.ppo == NEW.ppo
    assert config.with_evaluation(2, 3, True) == attrs.evolve(config, envs=2, episodes=3, evaluate="mode")
    tasks = [CueTask("t0", options) for options in (config, NEW)]

    def predict(inputs: api.Inputs) -> torch.Tensor:
        return torch.cat([inputs["cue"][:, :2], inputs["cue"][:, 2:3]], 1)

    assert tasks[0].evaluate(predict) == tasks[1].evaluate(predict)
    former_batches, batches = (list(islice(task.train(predict, Order(0, 20)), 12)) for task in tasks)
    for one, other in zip(former_batches, batches, strict=True):
        assert torch.equal(one.targets, other.targets)


def test_fields_of_a_step_can_be_passed_and_read_by_their_former_names() -> None:
    flags = torch.tensor([True])
    final, measures = {"cue": torch.zeros(1, 4)}, {"spl": torch.ones(1)}
    with pytest.warns(DeprecationWarning, match="Step.final is now Step.final_observations"):
        step = rl.Step({}, torch.zeros(1), flags, ~flags, flags, final=final, measures=measures)  # type: ignore[call-arg]
    assert (step.final_observations, step.metrics) == (final, measures)
    with pytest.warns(DeprecationWarning, match="Step.measures is now Step.metrics"):
        assert step.measures == measures  # type: ignore[attr-defined]
    assert attrs.evolve(step, metrics={}).metrics == {}
