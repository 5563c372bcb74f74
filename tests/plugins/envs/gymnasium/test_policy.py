"""Policies without their environment see what the run's wrappers make of plain observations, and act in the
format of the environment.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from sidetune_core.api import InputError, TaskCard
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure

sys.path.insert(0, str(Path(__file__).parent / "modules"))

Gym: Any = registry.load(registry.find(ENV, "gym"))
WALK = "gym_zoo:Walk-v0"
SMALL: dict[str, Any] = {"num_envs": 1, "eval_episodes": 2, "ppo": {"rollout_length": 8}}


def make_task(id: str, **options: Any) -> Any:
    (task,) = Gym(structure(Gym.Config, {"ids": [id], **SMALL, **options}, "env 'gym'"), 0).tasks()
    return task


def make_handler(task: Any, **values: Any) -> Any:
    plain = json.loads(json.dumps({**task.card(), **values}, allow_nan=False))
    card = TaskCard(
        "t0", task.title, "sidetune/gym", task.inputs, task.outputs, "return", head="handler", values=plain
    )
    return Gym.handler(card)


def arguments(**values: Any) -> str:
    return json.dumps(values)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v1", {}),
    (WALK, {"arguments": arguments(image=True), "frame_stack": 3, "grayscale": True, "image_size": 4}),
    (WALK, {"arguments": arguments(image=True), "mask_images": True}),
    (WALK, {"frame_stack": 2}),
    ("gym_odd:Odd-v0", {"frame_stack": 2}),
    ("gym_odd:Odd-v0", {"inputs": ["image"]}),
    ("MiniGrid-DoorKey-5x5-v0", {}),
    ("MiniGrid-DoorKey-5x5-v0", {"view": "pixels", "frame_stack": 2, "grayscale": True}),
    ("MiniGrid-Empty-5x5-v0", {"view": "pixels", "image_size": 14}),
]


@pytest.mark.parametrize(("id", "options"), CASES)
def test_plain_observations_become_the_inputs_of_training(id: str, options: dict[str, Any]) -> None:
    task, handler = make_task(id, **options), None
    handler = make_handler(task)
    env = gymnasium.make(id, **json.loads(options.get("arguments", "{}")))
    vector_env = task.make_vector_env(1)
    trained, (raw, _) = vector_env.reset(7), env.reset(seed=7)
    first = handler.observe(raw)
    memory = deque([handler.padding(first)] * handler.frames, maxlen=handler.frames)
    memory[-1] = first
    actions = torch.zeros(1, task.policy.width)
    for _ in range(8):
        seen, expected = handler.inputs([handler.stacked(list(memory))]), task.prepare(trained)
        assert {*seen} == {*expected}
        assert all(torch.equal(seen[name], expected[name]) for name in expected)
        step = vector_env.step(actions)
        if step.ended.any():
            break
        raw, *_ = env.step(handler.native(actions)[0])
        trained = step.observations
        memory.append(handler.observe(raw))
    vector_env.close()
    env.close()


@pytest.mark.parametrize("actions", ["discrete", "multidiscrete", "multibinary", "box"])
def test_actions_are_in_the_space_of_the_environment(actions: str) -> None:
    given = arguments(actions=actions)
    task = make_task(WALK, arguments=given)
    handler, env = make_handler(task), gymnasium.make(WALK, **json.loads(given))
    output = torch.randn(5, task.policy.size + 1, generator=torch.Generator().manual_seed(0)) * 10
    for prediction in handler.decide(output, torch.Generator().manual_seed(0)):
        assert env.action_space.contains(prediction.action)
        assert json.dumps(prediction.to_json())


def test_a_discrete_action_is_an_integer_from_the_start_of_its_space() -> None:
    handler = make_handler(make_task(WALK))
    assert handler.native(torch.tensor([[0.0], [2.0]])) == [5, 7]


def test_an_action_of_a_box_is_clipped() -> None:
    handler = make_handler(make_task(WALK, arguments=arguments(actions="box")))
    assert handler.native(torch.tensor([[9.0, -9.0]]))[0].tolist() == [0.1, 0.0]


GOOD = {"camera": np.zeros((6, 8, 3), np.uint8), "mode": 1, "words": "hello"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": np.zeros((6, 8, 3))}, "'camera' has dtype float64, expected uint8 values from 0 to 255"),
        ({"camera": np.zeros((3, 6, 8), np.uint8)}, r"'camera' has shape \(3, 6, 8\), expected \(6, 8, 3\)"),
        ({"mode": 3}, "'mode' is 3, expected one of Discrete"),
        ({"mode": 0.5}, "'mode' is 0.5, expected one of Discrete"),
        ({"mode": "left"}, "'mode' has dtype .*, expected numbers"),
    ],
)
def test_a_wrong_part_of_an_observation_is_a_sentence(changes: dict[str, Any], message: str) -> None:
    handler = make_handler(make_task("gym_odd:Odd-v0"))
    with pytest.raises(InputError, match=message):
        handler.observe({**GOOD, **changes})


def test_a_missing_key_is_a_sentence() -> None:
    handler = make_handler(make_task("gym_odd:Odd-v0"))
    with pytest.raises(InputError, match="has no 'mode'; it has camera"):
        handler.observe({"camera": GOOD["camera"]})


def test_an_observation_that_is_no_dictionary_is_a_sentence() -> None:
    handler = make_handler(make_task("gym_odd:Odd-v0"))
    with pytest.raises(InputError, match="is a dictionary of camera, mode, not a ndarray"):
        handler.observe(GOOD["camera"])


def test_a_view_with_unknown_objects_is_a_sentence() -> None:
    handler = make_handler(make_task("MiniGrid-Empty-5x5-v0"))
    with pytest.raises(InputError, match="observation 'image': numbers of objects"):
        handler.observe({"image": np.full((7, 7, 3), 99, np.uint8), "direction": 0})


@pytest.mark.parametrize(
    "values",
    [
        {"frame_stack": 2},
        {"actions": {"type": "discrete", "n": 9, "start": 0}},
        {"grid_view": "smell"},
        {"image_size": 10**9},
        {"observations": {}},
        {"observations": {"": {"type": "box", "shape": [5], "dtype": "float32"}}},
    ],
)
def test_a_card_that_contradicts_itself_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is|are"):
        make_handler(make_task("CartPole-v1"), **values)


def test_a_card_names_the_seeds_of_the_evaluation() -> None:
    task = make_task("CartPole-v1")
    evaluation = task.card()["evaluation"]
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=evaluation["seed"])
    seen: list[Any] = []

    def predict(inputs: Any) -> torch.Tensor:
        seen.append(inputs["vector"])
        return torch.zeros(1, 3)

    task.evaluate(predict)
    assert evaluation["episodes"] == 2
    assert torch.equal(seen[0][0], torch.from_numpy(observation))


def test_an_episode_without_end_is_truncated_when_played() -> None:
    task = make_task(WALK, arguments=arguments(limit=None))
    episodes = list(task.play(lambda inputs: torch.zeros(1, 4), 3, max_steps=7))
    assert [episode.length for episode in episodes] == [7, 7, 7]


def test_a_played_environment_shows_a_frame_for_each_reset_and_step() -> None:
    task, frames = make_task(WALK), list[Any]()
    episodes = list(
        task.play(lambda inputs: torch.zeros(1, 4), 2, show=lambda env, shown, fps: frames.extend(shown))
    )
    brightness = [int(frame[0, 0, 0]) // 10 for frame in frames]
    assert [episode.length for episode in episodes] == [12, 12]
    assert brightness == [*range(13), *range(13)]
