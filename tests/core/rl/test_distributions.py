"""Distributions over actions agree with PyTorch's own, and the head is as the literature has it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions

from sidetune_core.rl.distributions import ActorCritic, Categorical, Gaussian, Policy

ROWS = 6


def parameters(policy: Policy) -> torch.Tensor:
    return torch.randn(ROWS, policy.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_several_choices_are_independent_categorical_distributions() -> None:
    policy = Categorical([2, 3])
    given = parameters(policy)
    theirs = [distributions.Categorical(logits=logits) for logits in (given[:, :2], given[:, 2:])]
    actions = policy.sample(given, generator())
    assert actions.shape == (ROWS, 2)
    torch.testing.assert_close(
        policy.log_prob(given, actions), sum(one.log_prob(actions[:, k]) for k, one in enumerate(theirs))
    )
    torch.testing.assert_close(policy.entropy(given), sum(one.entropy() for one in theirs))
    assert torch.equal(policy.mode(given), torch.stack([one.probs.argmax(1) for one in theirs], 1).float())


def test_continuous_actions_are_normal_with_deviations_of_their_own() -> None:
    policy = Gaussian(3)
    given = parameters(policy)
    theirs = distributions.Independent(distributions.Normal(given[:, :3], given[:, 3:].exp()), 1)
    actions = policy.sample(given, generator())
    torch.testing.assert_close(policy.log_prob(given, actions), theirs.log_prob(actions))
    torch.testing.assert_close(policy.entropy(given), theirs.entropy())
    assert torch.equal(policy.mode(given), given[:, :3])


@pytest.mark.parametrize("policy", [Categorical([4]), Gaussian(1)])
def test_actions_are_drawn_as_often_as_they_are_likely(policy: Policy) -> None:
    one = torch.tensor([[0.5, -1.0, 0.2, 0.0]])[:, : policy.size]
    drawn = policy.sample(one.repeat(20_000, 1), generator())
    if isinstance(policy, Categorical):
        shares = torch.bincount(drawn[:, 0].long(), minlength=4) / len(drawn)
        torch.testing.assert_close(shares, one.softmax(1)[0], atol=0.015, rtol=0)
    else:
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.015)
        assert float(drawn.std()) == pytest.approx(math.exp(-1), abs=0.015)


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("policy", [Categorical([4]), Gaussian(2)])
def test_the_head_begins_with_a_policy_that_prefers_little_and_ends_with_the_value(
    policy: Policy, layers: int
) -> None:
    head = ActorCritic((8, 2, 2), policy, 16, layers)
    encodings = torch.randn(5, 8, 2, 2, generator=generator())
    output = head(encodings)
    assert output.shape == (5, policy.size + 1)
    assert float(output[:, : policy.size].detach().abs().max()) < 0.1
    torch.testing.assert_close(output[:, -1:], head.critic(encodings.flatten(1)))


def test_deviations_are_trained_and_depend_on_no_input() -> None:
    head = ActorCritic((4,), Gaussian(2), 16, 0)
    assert head.free is not None
    with torch.no_grad():
        head.free.copy_(torch.tensor([0.5, -0.5]))
    output = head(torch.randn(3, 4, generator=generator()))
    assert torch.equal(output[:, 2:4], torch.tensor([0.5, -0.5]).repeat(3, 1))
    output[:, 2:4].sum().backward()
    assert head.free.grad is not None
