"""Spaces of Gymnasium environments: what is read, how, and what is refused or left out by name."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidetune_core.api import DataError, OptionError, Order, TaskCard
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure, with_former_defaults
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec_file import from_values
from sidetune_core.rl import Categorical, RolloutError

MODULES = Path(__file__).parent / "modules"
sys.path.insert(0, str(MODULES))

from gym_shapes import OBSERVATIONS  # noqa: E402

Gym: Any = registry.load(registry.find(ENV, "gym"))
SMALL: dict[str, Any] = {"num_envs": 2, "eval_episodes": 2, "ppo": {"rollout_length": 8}}


def stream(observations: str = "matrix", actions: str = "two", **options: Any) -> Any:
    arguments = {"observations": observations, "actions": actions, **options.pop("arguments", {})}
    values = {"ids": ["gym_shapes:Shapes-v0"], "arguments": json.dumps(arguments), **SMALL, **options}
    return Gym(structure(Gym.Config, values, "env 'gym'"), 0)


def card_of(task: Any) -> TaskCard:
    values = json.loads(json.dumps(task.card()))
    return TaskCard(task.id, task.title, "gym", task.inputs, task.outputs, task.metric, values=values)


INPUTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "channels-last": {"image": (3, 9, 12)},
    "channels-first": {"image": (3, 9, 12)},
    "stacked-grey": {"image": (4, 9, 9)},
    "stacked-colour": {"image": (6, 9, 9)},
    "four-channels": {"image": (4, 9, 9)},
    "grey": {"image": (1, 9, 9)},
    "symbols": {"image": (20, 9, 7)},
    "float": {"image": (3, 9, 12)},
    "float-255": {"image": (3, 9, 12)},
    "float-grey": {"image": (1, 9, 9)},
    "matrix": {"vector": (6,)},
    "cube": {"vector": (24,)},
    "scalar": {"vector": (1,)},
    "tuple": {"0": (3,), "1": (4,)},
    "nested": {"inner.goal": (3,), "inner.two.0": (2,), "pos": (2,)},
    "multibinary": {"vector": (6,)},
    "multidiscrete": {"vector": (14,)},
    "words": {"pos": (2,)},
}


def flattened(raw: Any, name: str) -> Any:
    """A raw observation by input name, by hand."""
    if name in ("channels-last", "float", "four-channels", "symbols"):
        return {"image": np.moveaxis(raw, 2, 0)}
    if name in ("grey", "float-grey"):
        return {"image": raw[None]}
    if name == "stacked-colour":
        return {"image": np.concatenate([frame.transpose(2, 0, 1) for frame in raw])}
    if name in ("channels-first", "stacked-grey"):
        return {"image": raw}
    if name == "float-255":
        return {"image": raw / 255}
    if name == "tuple":
        return {"0": raw[0], "1": np.eye(4)[raw[1]]}
    if name == "nested":
        inner = raw["inner"]
        return {"pos": raw["pos"], "inner.goal": inner["goal"], "inner.two.0": np.eye(2)[inner["two"][0]]}
    if name == "words":
        return {"pos": raw["pos"]}
    if name == "multidiscrete":
        rows = zip(raw.ravel(), (2, 3, 4, 5), strict=True)
        return {"vector": np.concatenate([np.eye(count)[value] for value, count in rows])}
    return {"vector": np.ravel(raw)}


@pytest.mark.parametrize("name", INPUTS)
def test_spaces_are_read_in_training_and_by_the_policy_alike(name: str) -> None:
    (task,) = stream(name).tasks()
    assert task.inputs == INPUTS[name]
    vector_env = task.make_vector_env(1)
    observed = vector_env.reset(3)
    vector_env.close()
    space = OBSERVATIONS[name]
    space.seed(3)
    raw = space.sample()
    handler = Gym.handler(card_of(task))
    for key, expected in flattened(raw, name).items():
        np.testing.assert_allclose(observed[key][0].numpy(), expected, rtol=1e-6)
        np.testing.assert_array_equal(handler.observe(raw)[key], observed[key][0].numpy())
    top = 1.0 if name == "symbols" else 255.0
    is_bytes = observed[next(iter(observed))].dtype == torch.uint8
    inputs = task.prepare(observed)
    if is_bytes:
        torch.testing.assert_close(inputs["image"], observed["image"] / top)


def test_what_is_left_out_is_listed_once() -> None:
    env = stream("words")
    lines: list[str] = []
    env.info = lines.append
    env.tasks()
    assert "gym_shapes:Shapes-v0: left out of the observations: many (Sequence), words (Text)" in lines


def test_observations_without_numbers_and_inputs_of_text_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"its observation has the observation \(Text\); inputs are Box"):
        stream("text")
    with pytest.raises(DataError, match=r"words \(Text\) cannot be an input; .* its inputs: pos"):
        stream("words", inputs=["words"])
    with pytest.raises(DataError, match=r"two parts called a\.b"):
        stream("same")


def test_a_nested_input_can_be_selected() -> None:
    assert stream("nested", inputs=["inner.goal"]).inputs == {"inner.goal": (3,)}


def test_an_environment_without_a_time_limit_is_warned_about_and_its_evaluation_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = stream(arguments={"length": None})
    lines: list[str] = []
    env.info = lines.append
    (task,) = env.tasks()
    assert [line for line in lines if "--env.time-limit N" in line and "after 10000 steps" in line]
    monkeypatch.setattr("sidetune_core.rl.rollout_task.MAX_EVAL_STEPS", 7)
    uniform = lambda inputs: torch.zeros(len(inputs["vector"]), 3)  # noqa: E731
    assert task.evaluate(uniform)["length"] == 7
    limited = stream(arguments={"length": None}, time_limit=4)
    limited.info = lines.append
    lines.clear()
    (task,) = limited.tasks()
    assert lines == []
    assert task.evaluate(uniform)["length"] == 4


def test_the_value_of_an_endless_task_with_a_time_limit_is_that_without_one() -> None:
    ppo = {"rollout_length": 8, "gamma": 0.9, "normalise_advantages": False}
    (task,) = stream(arguments={"length": None}, time_limit=3, ppo=ppo).tasks()

    def constant(inputs: Any) -> torch.Tensor:
        return torch.tensor([0.0, 0.0, 10.0]).repeat(len(inputs["vector"]), 1)

    batch = next(task.train(constant, Order(0, 16)))
    torch.testing.assert_close(
        batch.targets[:, 3], torch.full((16,), 10.0)
    )  # 1 / (1 - gamma) is its fixed point


def test_a_wide_box_is_trained_like_one_between_minus_one_and_one() -> None:
    found = []
    for actions in ("unit", "wide"):
        (task,) = stream(actions=actions).tasks()
        rollout = task.train(lambda inputs: torch.zeros(len(inputs["vector"]), 3), Order(0, 16))
        found.append([next(rollout).targets for _ in range(6)])
    for unit, wide in zip(*found, strict=True):
        torch.testing.assert_close(unit, wide, rtol=1e-4, atol=1e-4)


def native(actions: str, values: list[float], **options: Any) -> Any:
    (task,) = stream(actions=actions, **options).tasks()
    handler = Gym.handler(card_of(task))
    vector_env = task.make_vector_env(1)
    vector_env.reset(0)
    vector_env.step(torch.tensor([values]))  # which checks that the action is in the space
    vector_env.close()
    (row,) = handler.native(torch.tensor([values]))
    return row.tolist()


def test_bounded_actions_are_rescaled_and_whole_ones_rounded() -> None:
    assert native("wide", [0.4]) == [pytest.approx(700)]
    assert native("wide", [-3.0]) == [0.0]
    assert native("whole", [0.59, -1.0]) == [8, 0]
    assert native("wide", [0.4], rescale_actions=False) == [pytest.approx(0.4)]
    assert native("odd", [3.0, 3.0, 3.0, 0.0]) == [3.0, 3.0, 1.0, 250.0]
    assert native("matrices", [1, 2, 0, 4]) == [[1, 2], [0, 4]]
    assert native("bits", [1, 0, 0, 1]) == [[1, 0], [0, 1]]


def test_odd_bounds_of_actions_are_warned_about() -> None:
    env = stream(actions="odd", time_limit=5)
    lines: list[str] = []
    env.info = lines.append
    env.tasks()
    assert lines == [
        "warning: gym_shapes:Shapes-v0: bounds of the actions: dimension 0 is bounded on one side only, and "
        "is not rescaled; dimension 1 is bounded by 1e+06 or more, and is not rescaled; ranges are uneven, "
        "from 2 to 500"
    ]


def test_actions_of_several_kinds_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"action space Dict\('a': Discrete\(2\).* --env.wrappers"):
        stream(actions="dict")
    (task,) = stream(actions="matrices").tasks()
    assert isinstance(task.policy, Categorical)
    assert task.policy.counts == [2, 3, 4, 5]


def test_what_was_recorded_before_keeps_its_reading() -> None:
    recorded = with_former_defaults(Gym.Config, {"ids": ["CartPole-v1"]}, "env 'gym'")
    assert (recorded["spaces"], recorded["rescale_actions"]) == ("flat", False)
    given = {"rescale-actions": True, "spaces": "all"}
    assert given.items() <= with_former_defaults(Gym.Config, given, "env 'gym'").items()
    values = {"env": {"name": "gym", "ids": ["CartPole-v1"]}, "learner": "features"}
    configs = [
        resolve(from_values(values, "run.json", known)).components["env"].config for known in (True, False)
    ]
    assert [(config.spaces, config.rescale_actions) for config in configs] == [("flat", False), ("all", True)]
    assert stream("channels-first", spaces="flat").inputs == {"image": (12, 3, 9)}
    assert stream("nested", spaces="flat").inputs == {"pos": (2,)}
    assert stream("float", spaces="flat").inputs == {"vector": (324,)}


def test_wrappers_are_applied_in_order_around_the_plain_environment() -> None:
    env = stream("matrix", wrappers=["gym_shapes:Double", "gym_shapes:in_dictionary", "gym_shapes:Double"])
    assert env.inputs == {"inside": (6,)}
    (task,) = env.tasks()
    vector_env = task.make_vector_env(1)
    vector_env.reset(0)
    assert vector_env.step(torch.zeros(1, 1)).rewards.tolist() == [4.0]
    vector_env.close()


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("gym_shapes", "write module:Wrapper"),
        ("gym_shapes:Nothing", "module 'gym_shapes' has no such attribute"),
        ("no_such_module:X", "no module named 'no_such_module' in the current folder"),
        ("gym_shapes:no_env", "returned a int, not a gymnasium.Env"),
        ("gymnasium.wrappers:TimeLimit", "needs a function of yours"),
    ],
)
def test_wrappers_that_are_none_are_errors(wrapper: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream(wrappers=[wrapper])


def test_each_id_can_have_its_own_arguments() -> None:
    ids = ["gym_shapes:Shapes-v0"] * 3
    own = ['{"length": 2}', "{}", '{"length": 2}']
    tasks = stream(ids=ids, env_args=own).tasks()
    uniform = lambda inputs: torch.zeros(len(inputs["vector"]), 3)  # noqa: E731
    assert [task.evaluate(uniform)["length"] for task in tasks] == [2, 5, 2]
    first = 'gym_shapes:Shapes-v0 {"length": 2}'
    assert [task.title for task in tasks] == [first, "gym_shapes:Shapes-v0", f"{first} (2)"]
    with pytest.raises(OptionError, match="--env.env-args has 1 objects for 3 ids"):
        stream(ids=ids, env_args=own[:1])
    with pytest.raises(OptionError, match=r"--env.env-args \[\]: give a JSON object"):
        stream(env_args=["[]"])


def test_a_module_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local_walks.py").write_text(
        'from gym_shapes import Shapes\nimport gymnasium\ngymnasium.register("Local-v0", Shapes)\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    values = {"ids": ["local_walks:Local-v0"], **SMALL}
    assert Gym(structure(Gym.Config, values, "env 'gym'"), 0).inputs == {"vector": (6,)}
    assert str(tmp_path) not in sys.path


def test_an_atari_game_is_found_and_its_limit_is_that_of_its_frames() -> None:
    pytest.importorskip("ale_py")
    values = {"ids": ["ALE/Pong-v5"], "image_size": 16, "grayscale": True, **SMALL}
    (task,) = Gym(structure(Gym.Config, values, "env 'gym'"), 0).tasks()
    assert task.inputs == {"image": (1, 16, 16)}
    assert task.time_limit == 27_000


@pytest.mark.parametrize(("name", "shape"), [("matrix", "(2, 2)"), ("grey", "(9, 8)")])
def test_an_observation_of_another_shape_than_its_space_is_an_error_with_both(name: str, shape: str) -> None:
    (task,) = stream(name, ids=["gym_shapes:Wrong-v0"]).tasks()
    vector_env = task.make_vector_env(1)
    with pytest.raises(
        RolloutError, match=rf"environment 0 of .* has shape {re.escape(shape)}, and its space is Box\("
    ):
        vector_env.reset(0)
    vector_env.close()


def test_rewards_and_ends_can_be_arrays() -> None:
    (task,) = stream(ids=["gym_shapes:Arrays-v0"]).tasks()
    uniform = lambda inputs: torch.zeros(len(inputs["vector"]), 3)  # noqa: E731
    assert task.evaluate(uniform) == {"return": 5.0, "success": 1.0, "length": 5.0}
