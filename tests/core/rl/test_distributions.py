"""Distributions over actions agree with PyTorch's, and the head is initialised as in the literature."""

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


@pytest.mark.parametrize(
    ("policy", "values", "defined"),
    [
        (Categorical([2, 2]), [0.0, -math.inf, 1.0, 2.0], True),  # a masked action
        (Categorical([2, 2]), [-math.inf, -math.inf, 1.0, 2.0], False),
        (Categorical([2, 2]), [0.0, math.inf, 1.0, 2.0], False),
        (Categorical([2, 2]), [0.0, 1.0, math.nan, -math.inf], False),
        (Gaussian(1), [0.0, -1.0], True),
        (Gaussian(1), [0.0, -math.inf], False),
    ],
)
def test_parameters_that_are_not_finite_define_no_policy(
    policy: Policy, values: list[float], defined: bool
) -> None:
    assert policy.is_defined(torch.tensor([values, [0.0] * len(values)])) is defined


def test_several_discrete_actions_are_independent_categorical_distributions() -> None:
    policy = Categorical([2, 3])
    values = parameters(policy)
    reference = [distributions.Categorical(logits=logits) for logits in (values[:, :2], values[:, 2:])]
    actions = policy.sample(values, generator())
    assert actions.shape == (ROWS, 2)
    torch.testing.assert_close(
        policy.log_prob(values, actions), sum(one.log_prob(actions[:, k]) for k, one in enumerate(reference))
    )
    torch.testing.assert_close(policy.entropy(values), sum(one.entropy() for one in reference))
    assert torch.equal(
        policy.mode(values), torch.stack([one.probs.argmax(1) for one in reference], 1).float()
    )


def test_continuous_actions_are_normal_with_separate_standard_deviations() -> None:
    policy = Gaussian(3)
    values = parameters(policy)
    reference = distributions.Independent(distributions.Normal(values[:, :3], values[:, 3:].exp()), 1)
    actions = policy.sample(values, generator())
    torch.testing.assert_close(policy.log_prob(values, actions), reference.log_prob(actions))
    torch.testing.assert_close(policy.entropy(values), reference.entropy())
    assert torch.equal(policy.mode(values), values[:, :3])


@pytest.mark.parametrize("policy", [Categorical([4]), Gaussian(1)])
def test_sampled_frequencies_are_the_probabilities(policy: Policy) -> None:
    one = torch.tensor([[0.5, -1.0, 0.2, 0.0]])[:, : policy.size]
    samples = policy.sample(one.repeat(20_000, 1), generator())
    if isinstance(policy, Categorical):
        frequencies = torch.bincount(samples[:, 0].long(), minlength=4) / len(samples)
        torch.testing.assert_close(frequencies, one.softmax(1)[0], atol=0.015, rtol=0)
    else:
        assert float(samples.mean()) == pytest.approx(0.5, abs=0.015)
        assert float(samples.std()) == pytest.approx(math.exp(-1), abs=0.015)


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("policy", [Categorical([4]), Gaussian(2)])
def test_the_initial_policy_is_almost_uniform_and_the_last_output_is_the_value(
    policy: Policy, layers: int
) -> None:
    head = ActorCritic((8, 2, 2), policy, 16, layers)
    encodings = torch.randn(5, 8, 2, 2, generator=generator())
    output = head(encodings)
    assert output.shape == (5, policy.size + 1)
    assert float(output[:, : policy.size].detach().abs().max()) < 0.1
    torch.testing.assert_close(output[:, -1:], head.critic(encodings.flatten(1)))


def test_standard_deviations_are_trained_and_depend_on_no_input() -> None:
    head = ActorCritic((4,), Gaussian(2), 16, 0)
    assert head.free is not None
    with torch.no_grad():
        head.free.copy_(torch.tensor([0.5, -0.5]))
    output = head(torch.randn(3, 4, generator=generator()))
    assert torch.equal(output[:, 2:4], torch.tensor([0.5, -0.5]).repeat(3, 1))
    output[:, 2:4].sum().backward()
    assert head.free.grad is not None
