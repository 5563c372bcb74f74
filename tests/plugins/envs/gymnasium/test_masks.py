"""Environments that say which actions are valid: in info, in the observation, or by a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import sidetune_core
from sidetune_core.api import InputError, SidetuneError
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure

Gym: Any = registry.load(registry.find(ENV, "gym"))


class Keypad(gymnasium.Env[Any, int]):
    """Four keys, of which one is valid in each step; an invalid one is an error."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    action_space = spaces.Discrete(4, start=1)
    observation_space: spaces.Space[Any] = spaces.Box(0.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.steps, self.valid = 0, int(self.np_random.integers(4))
        return self.observe(), self.info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action == self.valid + 1, "the key is not valid"
        self.steps, self.valid = self.steps + 1, int(self.np_random.integers(4))
        return self.observe(), 1.0, self.steps == 5, False, self.info()

    def observe(self) -> Any:
        return np.zeros(1, np.float32)

    def info(self) -> dict[str, Any]:
        return {"action_mask": np.arange(4) == self.valid}


class ObservedKeypad(Keypad):
    observation_space = spaces.Dict(
        {"x": spaces.Box(0.0, 1.0, (1,)), "action_mask": spaces.Box(0, 1, (4,), np.int8)}
    )

    def observe(self) -> Any:
        return {"x": np.zeros(1, np.float32), "action_mask": (np.arange(4) == self.valid).astype(np.int8)}

    def info(self) -> dict[str, Any]:
        return {}


class AskedKeypad(Keypad):
    def info(self) -> dict[str, Any]:
        return {}

    def action_masks(self) -> list[bool]:
        return [key == self.valid for key in range(4)]


KEYPADS = {"info": Keypad, "observation": ObservedKeypad, "method": AskedKeypad}
for source, cls in KEYPADS.items():
    gymnasium.register(f"Keypad-{source}-v0", cls, max_episode_steps=10)

SMALL = {"eval_episodes": 3, "num_envs": 2, "frames": 64, "ppo": {"rollout_length": 16}}


@pytest.mark.parametrize("source", KEYPADS)
def test_only_valid_actions_are_taken_in_training_evaluation_and_use(tmp_path: Path, source: str) -> None:
    spec = sidetune_core.RunSpec(
        base="mlp",
        learner="scratch",
        env={"name": "gym", "ids": [f"Keypad-{source}-v0"], **SMALL},
        train={"batch_size": 16},
    )
    run = sidetune_core.run(spec, tmp_path / "run")
    (_, after) = (line["figures"] for line in run.folder.lines("eval.jsonl"))
    assert after["return"] == 5.0
    model = sidetune_core.load(tmp_path / "run")
    env = gymnasium.make(f"Keypad-{source}-v0")
    observation, info = env.reset(seed=0)
    for _ in range(5):
        asked = env.get_wrapper_attr("action_masks")() if source == "method" else None
        mask = info.get("action_mask", asked)
        observation, _, over, _, info = env.step(model.act(observation, action_mask=mask))
    assert over
    if source != "observation":
        with pytest.raises(InputError, match=r"pass action_mask=info\['action_mask'\]"):
            model.act(observation)
        with pytest.raises(InputError, match="allows no action"):
            model.act(observation, action_mask=[0, 0, 0, 0])


def test_masks_can_be_ignored_and_are_no_inputs() -> None:
    options = {"ids": ["Keypad-info-v0"], **SMALL}
    masked, plain = (
        Gym(structure(Gym.Config, {**options, "action_masks": masks}, "env 'gym'"), 0).tasks()[0]
        for masks in (True, False)
    )
    assert masked.inputs == plain.inputs == {"vector": (1,)}
    with pytest.raises(SidetuneError, match="the key is not valid"):
        plain.evaluate(lambda inputs: torch.arange(5.0).expand(len(inputs["vector"]), -1))
    assert masked.evaluate(lambda inputs: torch.arange(5.0).expand(len(inputs["vector"]), -1))["return"] == 5
