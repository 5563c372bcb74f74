"""Proximal policy optimisation (PPO): options, advantages, and the loss of what a policy did.

Schulman et al., Proximal Policy Optimization Algorithms, 2017, with the details that made it work everywhere (Huang et al., The 37
Implementation Details of PPO, ICLR Blog Track 2022).
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.config.options import at_least, at_most, more_than, option
from sidetune_core.rl.distributions import Policy


@attrs.frozen
class RolloutOptions:
    """How experience is gathered and learnt from. An env's ``Config`` can inherit from it."""

    envs: int = option(8, "environments that run side by side", at_least(1))
    rollout: int = option(128, "steps of each environment between two updates", at_least(1))
    frames: int = option(
        100_000,
        "steps of all environments in one of --train.epochs, rounded up to whole rollouts",
        at_least(1),
    )
    passes: int = option(4, "passes over a rollout in an update", at_least(1))
    gamma: float = option(0.99, "discount of a reward for each step that it is away", at_least(0), at_most(1))
    gae_lambda: float = option(0.95, "lambda of generalised advantage estimation", at_least(0), at_most(1))
    clip: float = option(0.2, "how far the probability ratio may be from 1", more_than(0))
    clip_value: float | None = option(
        None, "how far a value may move from that of the rollout; None for no limit", more_than(0)
    )
    value_coef: float = option(0.5, "weight of the squared error of the value", at_least(0))
    entropy_coef: float = option(0.0, "weight of the policy's entropy", at_least(0))
    normalise_advantages: bool = option(True, "standardise advantages in each batch")
    normalise_observations: bool = option(
        False, "standardise vector inputs by the running mean and deviation of training"
    )
    normalise_rewards: bool = option(
        False, "divide training rewards by the running deviation of the discounted return"
    )
    hidden: int = option(
        64, "units of each layer between encoding and actor, and between encoding and critic", at_least(1)
    )
    layers: int = option(1, "how many such layers the actor has, and the critic", at_least(0))
    episodes: int = option(100, "episodes of an evaluation", at_least(1))
    evaluate: Literal["mode", "sample"] = option(
        "mode", "in evaluation, take the most likely action or draw one"
    )


@attrs.frozen(eq=False)
class RolloutBatch:
    """What a policy did in N steps, and what is learnt from it."""

    actions: Tensor
    """(N, width)"""
    log_probs: Tensor
    """(N,): of the actions, by the policy that took them."""
    advantages: Tensor
    """(N,)"""
    returns: Tensor
    """(N,): what the value is to be."""
    values: Tensor
    """(N,): what the value was when the action was taken."""

    def packed(self) -> Tensor:
        """(N, width + 4), as the targets of a batch: the columns in the order of the fields."""
        return torch.cat(
            [self.actions, torch.stack([self.log_probs, self.advantages, self.returns, self.values], 1)], 1
        )

    @classmethod
    def unpacked(cls, targets: Tensor) -> RolloutBatch:
        """What `packed` gave."""
        return cls(targets[:, :-4], *targets[:, -4:].unbind(1))

    def standardised(self) -> RolloutBatch:
        """With advantages of mean 0 and deviation 1; as they are where there is one row only."""
        if len(self.advantages) < 2:
            return self
        return attrs.evolve(
            self, advantages=(self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)
        )


def ppo_loss(
    output: Tensor, past: RolloutBatch, policy: Policy, options: RolloutOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped objective (eq. 7 of the paper, negated), squared error of the value, and entropy (eq. 9), row by row.

    Args:
        output: (N, policy.size + 1), the policy's parameters and the value as they are now.
        past: what the policy did in the same steps.
        policy: the family of distributions over actions.
        options: of the loss.

    Returns:
        The losses (N,), and means over the rows, without gradient: ``kl``, how far the policy has moved from the one that acted, in nats;
        ``clipped``, the share of ratios beyond the clip; ``entropy``, in nats.
    """
    parameters, value = output[:, :-1], output[:, -1]
    change = policy.log_prob(parameters, past.actions) - past.log_probs
    ratio = change.exp()
    surrogate = torch.minimum(
        ratio * past.advantages, ratio.clamp(1 - options.clip, 1 + options.clip) * past.advantages
    )
    error = (value - past.returns).square()
    if options.clip_value is not None:
        near = past.values + (value - past.values).clamp(-options.clip_value, options.clip_value)
        error = torch.maximum(error, (near - past.returns).square())
    entropy = policy.entropy(parameters)
    with torch.no_grad():
        figures = {
            "kl": (
                ratio - 1 - change
            ).mean(),  # an estimate that is unbiased and never negative (Schulman 2020)
            "clipped": ((ratio - 1).abs() > options.clip).float().mean(),
            "entropy": entropy.mean(),
        }
    return -surrogate + options.value_coef * error - options.entropy_coef * entropy, figures


def gae(
    rewards: Tensor, values: Tensor, last: Tensor, ended: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al., ICLR 2016, eq. 16), (T, E).

    Args:
        rewards: (T, E).
        values: of the observations that were acted on, (T, E).
        last: value of the observation after the last step, (E,).
        ended: 1 where the episode ended in that step, so that nothing after it counts, else 0; (T, E).
        gamma: discount.
        gae_lambda: 0 for one-step differences, 1 for whole returns.
    """
    goes_on = gamma * (1 - ended)
    differences = (rewards + goes_on * torch.cat([values[1:], last.unsqueeze(0)]) - values).unbind()
    later, advantages = torch.zeros_like(last), []
    for difference, share in zip(
        reversed(differences), reversed((gae_lambda * goes_on).unbind()), strict=True
    ):
        later = difference + share * later
        advantages.append(later)
    return torch.stack(advantages[::-1])
