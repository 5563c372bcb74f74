"""Handlers of policies: observations and actions by the card of a rollout task, without its environment."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from sidetune_core.api import InputError, Outputs, TaskCard
from sidetune_core.errors import Diverged
from sidetune_core.rl import ActionPrediction, Categorical, Gaussian, Policy, PolicyHandler, RolloutConfig
from sidetune_core.rl.distributions import ActorCritic
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.policy_handler import describe_policy, make_policy

sys.path.insert(0, str(Path(__file__).parent / "rollouts"))

from cue import CueTask  # noqa: E402

OPTIONS = RolloutConfig(num_envs=4, eval_episodes=8)
CUE = np.array([1.0, 0.0, 2.0, 3.0])


def make_card(task: CueTask | None = None, **values: Any) -> TaskCard:
    task = task or CueTask("t0", OPTIONS)
    plain = json.loads(json.dumps({**task.card(), **values}))
    return TaskCard(
        "t0", task.title, "acme/cues", task.inputs, Outputs(), "return", values=plain, head="handler"
    )


def test_policies_of_the_core_are_described_and_made_again() -> None:
    categorical = make_policy(describe_policy(Categorical([2, 3])) or {})
    gaussian = make_policy(describe_policy(Gaussian(3)) or {})
    assert isinstance(categorical, Categorical)
    assert categorical.counts == [2, 3]
    assert isinstance(gaussian, Gaussian)
    assert gaussian.width == 3


def test_a_policy_of_a_plugin_is_not_described() -> None:
    class Mine(Categorical):
        pass

    mine: Policy = Mine([2])
    assert describe_policy(mine) is None


@pytest.mark.parametrize(
    "values",
    [
        {"policy": {"family": "oracle"}},
        {"policy": {"family": "categorical", "counts": []}},
        {"policy": {"family": "categorical", "counts": [10**9]}},
        {"policy": {"family": "gaussian", "width": "wide"}},
        {"hidden_size": 10**9},
        {"critic": None},
        {"units": {"cue": 0}},
    ],
)
def test_a_card_with_absurd_values_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is|are"):
        PolicyHandler(make_card(**values))


def test_the_head_is_that_of_the_task() -> None:
    head = PolicyHandler(make_card()).make_head((8,))
    assert isinstance(head, ActorCritic)
    assert head.state_dict().keys() == CueTask("t0", OPTIONS).make_head((8,)).state_dict().keys()


def test_observations_are_standardised_by_the_statistics_of_training() -> None:
    task = CueTask("t0", attrs.evolve(OPTIONS, ppo=attrs.evolve(OPTIONS.ppo, normalise_observations=True)))
    task.update_statistics({"cue": torch.randn(50, 4)})
    handler = PolicyHandler(make_card(task))
    handler.set_state(task.state())
    found = handler.preprocess([CUE, {"cue": CUE + 1}]).inputs["cue"]
    expected = task.prepare({"cue": torch.tensor(np.array([CUE, CUE + 1]), dtype=torch.float32)})["cue"]
    assert torch.equal(found, expected)


def test_missing_statistics_are_an_error() -> None:
    with pytest.raises(InputError, match="no statistics"):
        PolicyHandler(make_card(normalise_observations=True)).preprocess([CUE])


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (CUE[:3], r"observation 'cue' has shape \(3,\), expected \(4,\)"),
        (np.stack([CUE, CUE]), "several observations are a list"),
        ({"clue": CUE}, "has no 'cue'; it has clue"),
        (CUE * math.nan, "is not finite"),
        (np.array(["a", "b", "c", "d"]), "expected numbers"),
        ([CUE, CUE[:2]], "is not an array|shape"),
    ],
)
def test_a_wrong_observation_is_a_sentence(observation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PolicyHandler(make_card()).preprocess([observation])


def test_stacked_frames_need_an_actor() -> None:
    handler = PolicyHandler(make_card())
    handler.frames = 4
    with pytest.raises(InputError, match=r"model\.actor\(task\)"):
        handler.preprocess([CUE])


def test_decisions_have_the_probability_of_the_action_and_the_value() -> None:
    (decision,) = PolicyHandler(make_card()).decide(torch.tensor([[0.0, math.log(3.0), 7.0]]))
    assert decision.action.tolist() == [1.0]
    assert decision.probability == pytest.approx(0.75)
    assert decision.value == 7.0


def test_sampled_actions_are_those_of_the_generator() -> None:
    handler, outputs = PolicyHandler(make_card()), torch.zeros(6, 3)
    found = handler.decide(outputs, torch.Generator().manual_seed(3))
    expected = Categorical([2]).sample(outputs[:, :2], torch.Generator().manual_seed(3))
    assert [row.action.tolist() for row in found] == expected.tolist()


def test_outputs_that_are_not_finite_give_no_action() -> None:
    with pytest.raises(Diverged, match="not finite"):
        PolicyHandler(make_card()).decide(torch.full((1, 3), math.nan))


def test_an_action_is_plain_in_json_and_a_line_as_text() -> None:
    prediction = ActionPrediction(np.array([1, 2]), 0.5)
    assert prediction.to_json() == {"action": [1, 2], "probability": 0.5, "value": None}
    assert str(prediction) == "[1, 2] 0.50"


def test_a_transform_standardises_vectors_and_divides_images_of_bytes() -> None:
    inputs = {"image": (1, 2, 2), "cue": (4,)}
    card = attrs.evolve(make_card(normalise_observations=True, units={"image": 255.0}), inputs=inputs)
    handler = PolicyHandler(card)
    state = ObservationNormalizer(inputs, {}, True, False)
    state.update({"cue": torch.randn(20, 4)})
    handler.set_state(state.state())
    image, cue = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8), torch.randn(1, 4)
    found = handler.transform()(image, cue)
    assert torch.equal(found[0], torch.full((1, 1, 2, 2), 0.2))
    assert torch.equal(found[1], state.standardised({"cue": cue})["cue"])
    assert torch.equal(handler.transform()(found[0], cue)[0], found[0])
    handler.mask_images = True
    assert handler.transform()(image, cue)[0].unique().tolist() == [0.0]
