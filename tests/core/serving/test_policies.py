"""Policies after training act as in the run's evaluation, in loops of their user."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from sidetune_core import RunSpec, run
from sidetune_core.errors import InputError
from sidetune_core.serving.model import Model, load
from sidetune_core.serving.network import write_network

sys.path[:0] = [
    str(Path(__file__).parents[2] / "plugins" / "envs" / "gymnasium" / "modules"),
    str(Path(__file__).parents[1] / "rl" / "rollouts"),
]

WALK = "gym_zoo:Walk-v0"
SMALL = {"num_envs": 1, "eval_episodes": 3, "frames": 64, "ppo": {"rollout_length": 64, "epochs": 2}}
Train = Callable[..., tuple[Path, Model]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a policy for a few steps; equal arguments give the same run."""
    made: dict[str, Path] = {}

    def make(id: str, ppo: dict[str, Any] | None = None, base: str = "mlp", **options: Any) -> Any:
        env = {"name": "gym", "ids": [id], **SMALL, "ppo": {**SMALL["ppo"], **(ppo or {})}, **options}  # type: ignore[dict-item]
        key = json.dumps([env, base])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("policies") / "run"
            spec = RunSpec(
                env=env,
                learner={"name": "scratch", "norm": False},
                base=base,
                train={"batch_size": 32, "lr": 0.01},
            )
            run(spec, made[key])
        return made[key], load(made[key], trust_local_code=True)

    return make


def evaluated(folder: Path) -> float:
    """What the run reported."""
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    return float([row["figures"]["return"] for row in rows if "figures" in row][-1])


def episodes(
    model: Model, id: str, seed: int, count: int, actor: Any = None, **arguments: Any
) -> Iterator[float]:
    """Returns of a loop of a user, who knows the plain environment only."""
    env = gymnasium.make(id, **arguments)
    for number in range(count):
        observation, _ = env.reset(seed=seed) if number == 0 else env.reset()
        if actor is not None:
            actor.reset()
        total, over = 0.0, False
        while not over:
            action = model.act(observation) if actor is None else actor.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        yield total
    env.close()


def mean_return(model: Model, id: str, with_actor: bool = False, **arguments: Any) -> float:
    evaluation = model.cards["t0"].values["evaluation"]
    actor = model.actor(seed=evaluation["actions_seed"]) if with_actor else None
    found = list(episodes(model, id, evaluation["seed"], evaluation["episodes"], actor, **arguments))
    return sum(found) / len(found)


CONV = {"base": "conv", "image_size": 16}
SAMPLED = {"deterministic_eval": False, "arguments": {"max_steps": 30}}
"""Deterministic actions never reach the goal after so little training: all returns would be 0."""
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("CartPole-v1", {"ppo": {"normalise_observations": True}}, False),
    ("MiniGrid-Empty-5x5-v0", {"base": "conv", **SAMPLED}, True),
    ("MiniGrid-Empty-5x5-v0", {"base": "conv", "view": "pixels", "inputs": ["image"], **SAMPLED}, True),
    (WALK, {"ppo": {"normalise_observations": True}, "arguments": {"actions": "box"}}, False),
    (WALK, {"arguments": {"actions": "multidiscrete"}, "frame_stack": 2}, True),
    (
        WALK,
        {"base": "conv", "arguments": {"image": True}, "frame_stack": 3, "grayscale": True, "image_size": 16},
        True,
    ),
    (WALK, {"deterministic_eval": False, "arguments": {"actions": "multibinary"}}, True),
]


@pytest.mark.parametrize(("id", "options", "with_actor"), CASES)
def test_a_loop_of_a_user_has_the_return_of_the_evaluation(
    train: Train, id: str, options: dict[str, Any], with_actor: bool
) -> None:
    arguments = options.get("arguments", {})
    folder, model = train(id, **{**options, "arguments": json.dumps(arguments)})
    assert evaluated(folder) != 0
    assert mean_return(model, id, with_actor, **arguments) == pytest.approx(evaluated(folder), rel=1e-6)


def test_a_list_of_observations_gets_a_list_of_actions(train: Train) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    observations = [np.full(4, value, np.float32) for value in (-1.0, 0.1, 1.0)]
    assert model.act(observations) == [model.act(observation) for observation in observations]


def test_sampled_actions_are_those_of_the_generator(train: Train) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    observations = [np.zeros(4, np.float32)] * 40
    first, second = (
        model.act(observations, deterministic=False, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert first == second
    assert set(first) == {0, 1}


def test_an_actor_with_a_seed_repeats_its_actions(train: Train) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    observation = np.zeros(4, np.float32)
    found = [
        [actor.act(observation) for _ in range(20)]
        for actor in (model.actor(deterministic=False, seed=seed) for seed in (1, 1, 2))
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def stacked(train: Train) -> Model:
    _, model = train(WALK, arguments=json.dumps({"actions": "multidiscrete"}), frame_stack=2)
    return model


def test_a_policy_of_stacked_frames_needs_an_actor(train: Train) -> None:
    with pytest.raises(InputError, match=r"latest 2 observations at once.*model.actor\('t0'\)"):
        stacked(train).act(np.zeros(3))


def test_an_actor_in_several_environments_remembers_each(train: Train) -> None:
    model = stacked(train)
    rows = np.random.default_rng(0).normal(size=(5, 3, 3)) * 9
    together, alone = model.actor(), [model.actor() for _ in range(3)]
    for step, observations in enumerate(rows):
        if step == 3:
            together.reset([1])
            alone[1].reset()
        expected = [actor.predict(row).value for actor, row in zip(alone, observations, strict=True)]  # type: ignore[union-attr]
        found = [one.value for one in together.predict([*observations])]  # type: ignore[union-attr]
        assert found == pytest.approx(expected, abs=1e-5)


def test_another_number_of_environments_needs_a_reset(train: Train) -> None:
    actor = stacked(train).actor()
    actor.act([np.zeros(3)] * 2)
    with pytest.raises(InputError, match=r"remembers 2 environments, and .* 1 observations: .*reset\(\)"):
        actor.act(np.zeros(3))
    actor.reset()
    actor.act(np.zeros(3))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(5), r"shape \(5,\), expected \(4,\)"),
        (np.zeros((2, 4)), "several observations are a list"),
        (np.full(4, np.nan), "is not finite"),
        ("left", "shape|numbers"),
        (None, "shape|numbers"),
        ([], "no observations"),
    ],
)
def test_a_wrong_observation_is_a_sentence(train: Train, observation: Any, message: str) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    with pytest.raises(InputError, match=message):
        model.act(observation)


def test_a_policy_does_not_predict(train: Train) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    with pytest.raises(InputError, match=r"task 't0' is a policy, which acts: call model\.act"):
        model.predict(np.zeros(4))


def test_a_classifier_does_not_act(digits_run: Path) -> None:
    model = load(digits_run)
    with pytest.raises(InputError, match=r"task 't0' has no policy.*model\.predict\(inputs, 't0'\)"):
        model.act(np.zeros((3, 8, 8)), "t0")
    with pytest.raises(InputError, match="has no policy"):
        model.actor("t0")


def test_an_env_without_a_handler_acts_on_what_its_vector_env_gives(tmp_path: Path) -> None:
    env = {"name": "cue:Cues", "eval_episodes": 4, "num_envs": 2, "frames": 40, "ppo": {"rollout_length": 20}}
    spec = RunSpec(env=env, learner={"name": "scratch", "norm": False}, base="mlp", train={"batch_size": 20})
    run(spec, tmp_path / "run")
    model = load(tmp_path / "run", trust_local_code=True)
    action = model.act({"cue": np.array([1.0, 0.0, 0.0, 0.0])}, "t1")
    assert action.tolist() in ([0.0], [1.0])


@pytest.mark.parametrize("format", ["torchscript", "torch-export"])
def test_a_policy_as_a_plain_module_standardises_observations(
    train: Train, tmp_path: Path, format: Any
) -> None:
    _, model = train("CartPole-v1", ppo={"normalise_observations": True}, arguments="{}")
    observations = torch.randn(5, 4)
    expected = model.outputs(model.handler().preprocess([*observations.numpy()]).inputs)
    assert torch.equal(model.module("t0")(observations), expected)
    write_network(model, "t0", tmp_path / "policy.pt2", format)


def test_a_policy_of_images_as_a_plain_module_takes_bytes(train: Train) -> None:
    options = {**CONV, "arguments": json.dumps({"image": True}), "frame_stack": 3, "grayscale": True}
    _, model = train(WALK, **options)
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(model.module("t0")(images), model.outputs(images.float() / 255))
