"""Action masks: probabilities, entropies and the PPO loss by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sidetune_core.errors import RolloutError
from sidetune_core.rl import MASK, Categorical, Gaussian, PPOOptions, mask_invalid, mask_of
from sidetune_core.rl.ppo import RolloutBatch, ppo_loss

LOGITS = torch.tensor([[0.0, math.log(2.0), math.log(3.0), 0.5, 0.5]])
"""Of a choice of three and one of two."""
MASKED = torch.tensor([[True, False, True, True, True]])
POLICY = Categorical([3, 2])


def test_a_masked_distribution_is_that_of_the_valid_actions() -> None:
    parameters = mask_invalid(POLICY, LOGITS, MASKED)
    actions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    probabilities = POLICY.log_prob(parameters.expand(3, -1), actions).exp()
    torch.testing.assert_close(probabilities, torch.tensor([0.25 / 2, 0.0, 0.75 / 2]))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) + math.log(2)
    torch.testing.assert_close(POLICY.entropy(parameters), torch.tensor([expected]))
    sampled = POLICY.sample(parameters.expand(4000, -1), torch.Generator().manual_seed(0))
    assert (sampled[:, 0] != 1).all()
    assert float((sampled[:, 0] == 2).float().mean()) == pytest.approx(0.75, abs=0.03)
    only_worst = torch.tensor([[True, False, False, True, True]])
    assert POLICY.mode(mask_invalid(POLICY, LOGITS, only_worst))[0, 0] == 0


def test_the_gradient_of_a_masked_loss_is_finite_and_zero_for_invalid_actions() -> None:
    logits = LOGITS.clone().requires_grad_()
    parameters = mask_invalid(POLICY, logits, MASKED)
    (POLICY.log_prob(parameters, torch.tensor([[2.0, 0.0]])) + POLICY.entropy(parameters)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, [0, 2]].abs().min() > 0


def test_the_ppo_loss_uses_the_mask_of_the_rollout() -> None:
    output = torch.cat([LOGITS, torch.zeros(1, 1)], 1)
    actions, zero = torch.tensor([[2.0, 0.0]]), torch.zeros(1)
    old = RolloutBatch(actions, torch.tensor([math.log(0.75 / 2)]), torch.ones(1), zero, zero, MASKED)
    again = RolloutBatch.unpacked(old.packed(), POLICY)
    assert again.masks is not None
    assert torch.equal(again.masks, MASKED)
    losses, metrics = ppo_loss(output, again, POLICY, PPOOptions())
    torch.testing.assert_close(losses, -torch.ones(1))  # the ratio is 1
    assert metrics["kl"].abs() < 1e-6


def test_a_mask_of_stacked_frames_is_the_latest_one() -> None:
    stacked = torch.cat([torch.zeros(1, 5), MASKED.float()], 1)
    found = mask_of({MASK: stacked}, POLICY)
    assert found is not None
    assert torch.equal(found, MASKED)
    assert mask_of({}, POLICY) is None


def test_a_mask_without_a_valid_action_is_an_error_of_the_environment() -> None:
    none = torch.tensor([[True] * 5, [False, False, False, True, True]])
    with pytest.raises(
        RolloutError, match=r"maze: the action mask of environment 1 allows no action \(step 3\)"
    ):
        mask_invalid(POLICY, LOGITS.expand(2, -1), none, "maze", "step 3")
    with pytest.raises(RolloutError, match="those of Gaussian are no choices"):
        mask_invalid(Gaussian(1), torch.zeros(1, 2), torch.ones(1, 2) > 0)
