"""Environments written against version 0.1 run under the former names, with a deprecation warning."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import attrs
import pytest
import torch

import sidetune_core
from sidetune_core import api, rl
from sidetune_core.api import Order, option
from sidetune_core.demonstrations import record_demonstrations

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_env_of_version_0_1_is_trained_recorded_and_cloned_under_its_own_options(tmp_path: Path) -> None:
    env = {"name": "lever:Lever", "envs": 2, "rollout": 16, "frames": 256, "passes": 2, "episodes": 4}
    spec = sidetune_core.RunSpec(base="mlp", learner="scratch", env=env, train={"batch_size": 16})
    run = sidetune_core.run(spec, tmp_path / "run")
    assert list(run.folder.lines("eval.jsonl"))[-1]["figures"]["pushes"] == 4.0
    folder = record_demonstrations(env, tmp_path / "data", 8, quiet=True).folder
    cloning = {
        "name": "imitation",
        "root": [str(folder)],
        "val_trajectories": 2,
        "eval_episodes": 4,
        "num_envs": 2,
    }
    spec = sidetune_core.RunSpec(
        base="mlp",
        learner="scratch",
        env=cloning,
        train={"steps": 20, "batch_size": 8},
        trust_local_code=True,
    )
    assert sidetune_core.run(spec, tmp_path / "clone").results.rows
