"""Proximal policy optimisation (PPO): its options, batches, loss and advantages.

Schulman et al., Proximal Policy Optimization Algorithms, 2017, with the implementation details of Huang et
al., The 37 Implementation Details of PPO, ICLR Blog Track 2022.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from sidetune_core.config.options import at_least, at_most, more_than, option
from sidetune_core.errors import OptionError
from sidetune_core.rl.distributions import Policy
from sidetune_core.rl.masks import mask_invalid


@attrs.frozen
class PPOOptions:
    """Options of PPO and of its actor and critic."""

    rollout_length: int = option(128, "steps of each environment between two updates", at_least(1))
    epochs: int = option(4, "passes over each rollout", at_least(1))
    gamma: float = option(0.99, "discount factor", at_least(0), at_most(1))
    gae_lambda: float = option(0.95, "lambda of generalised advantage estimation", at_least(0), at_most(1))
    clip: float = option(0.2, "clip range of the probability ratio", more_than(0))
    value_clip: float | None = option(None, "clip range of the value; None for no clipping", more_than(0))
    value_coef: float = option(0.5, "weight of the value loss", at_least(0))
    entropy_coef: float = option(0.0, "weight of the entropy bonus", at_least(0))
    normalise_advantages: bool = option(True, "standardise advantages in each batch")
    normalise_observations: bool = option(False, "standardise vector observations by running statistics")
    normalise_rewards: bool = option(
        False, "divide training rewards by the running standard deviation of the discounted return"
    )
    replay_epochs: int = option(
        0, "further passes in each update over rows of the latest replay-steps, 0 for none", at_least(0)
    )
    replay_steps: int = option(
        0,
        "latest steps of each environment that are replayed, a multiple of rollout-length that includes the "
        "latest rollout",
        at_least(0),
    )
    recompute_advantages: bool = option(
        False, "recompute advantages and returns with the current critic before each pass"
    )
    hidden_size: int = option(64, "units of each hidden layer of actor and critic", at_least(1))
    hidden_layers: int = option(1, "number of hidden layers of actor and critic", at_least(0))
    memory: int = option(
        0,
        "units of a GRU between encoding and actor and critic, whose state is kept across steps; 0 for none",
        at_least(0),
    )

    @property
    def kept_rollouts(self) -> int:
        """Number of rollouts that an update trains on."""
        return max(self.replay_steps // self.rollout_length, 1) if self.replay_epochs else 1

    def check(self) -> None:
        """Check that options fit together.

        Raises:
            OptionError: they do not.
        """
        steps, length = self.replay_steps, self.rollout_length
        if self.replay_epochs and (steps < length or steps % length):
            raise OptionError(
                f"--env.ppo.replay-steps {steps} is not a positive multiple of --env.ppo.rollout-length "
                f"{length}, as --env.ppo.replay-epochs {self.replay_epochs} needs; for example "
                f"--env.ppo.replay-steps {max(round(steps / length), 2) * length}"
            )


@attrs.frozen(eq=False)
class RolloutBatch:
    """N steps of a rollout, with the targets of the PPO loss."""

    actions: Tensor
    """(N, width)"""
    log_probs: Tensor
    """(N,): of the actions, under the policy that took them."""
    advantages: Tensor
    """(N,)"""
    returns: Tensor
    """(N,): targets of the value."""
    values: Tensor
    """(N,): predicted when the actions were taken."""
    masks: Tensor | None = None
    """(N, policy.size), bool: the valid actions; None if all are."""

    def packed(self) -> Tensor:
        """(N, width + 4), as the targets of a batch: the columns in the order of the fields, after the masks
        if there are any."""
        columns = torch.stack([self.log_probs, self.advantages, self.returns, self.values], 1)
        masks = [] if self.masks is None else [self.masks.float()]
        return torch.cat([*masks, self.actions, columns], 1)

    @classmethod
    def unpacked(cls, targets: Tensor, policy: Policy | None = None) -> RolloutBatch:
        """The inverse of `packed`; without the policy, there are no masks."""
        first = 0 if policy is None else targets.shape[1] - 4 - policy.width
        masks = targets[:, :first] != 0 if first else None
        log_probs, advantages, returns, values = targets[:, -4:].unbind(1)
        return cls(targets[:, first:-4], log_probs, advantages, returns, values, masks)

    def standardised(self) -> RolloutBatch:
        """With advantages of mean 0 and standard deviation 1; unchanged if there is one row only."""
        if len(self.advantages) < 2:
            return self
        advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)
        return attrs.evolve(self, advantages=advantages)


def ppo_loss(
    output: Tensor, old: RolloutBatch, policy: Policy, options: PPOOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped objective (eq. 7 of the paper, negated), value loss and entropy bonus (eq. 9), row by row.

    Args:
        output: the parameters of the current policy in the first columns, and the current value in the last.
        old: the actions, log-probabilities and values of the rollout.
        policy: the family of distributions over actions.
        options: of the loss.

    Returns:
        The losses (N,), and means over the rows, without gradient: ``kl``, from the rollout's policy to the
        current one, in nats; ``clipped``, the fraction of clipped ratios; ``entropy``, in nats.
    """
    parameters, value = mask_invalid(policy, output[:, : policy.size], old.masks), output[:, -1]
    log_ratio = policy.log_prob(parameters, old.actions) - old.log_probs
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - options.clip, 1 + options.clip)
    surrogate = torch.minimum(ratio * old.advantages, clipped_ratio * old.advantages)
    value_loss = (value - old.returns).square()
    if options.value_clip is not None:
        clipped_value = old.values + (value - old.values).clamp(-options.value_clip, options.value_clip)
        value_loss = torch.maximum(value_loss, (clipped_value - old.returns).square())
    entropy = policy.entropy(parameters)
    with torch.no_grad():
        metrics = {
            "kl": (
                ratio - 1 - log_ratio
            ).mean(),  # the unbiased, non-negative estimator k3 of Schulman (2020)
            "clipped": ((ratio - 1).abs() > options.clip).float().mean(),
            "entropy": entropy.mean(),
        }
    return -surrogate + options.value_coef * value_loss - options.entropy_coef * entropy, metrics


def gae(
    rewards: Tensor, values: Tensor, last: Tensor, ended: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al., ICLR 2016, eq. 16), (T, E).

    Args:
        rewards: (T, E).
        values: of the observations that the policy acted on, (T, E).
        last: value of the observation after the last step, (E,).
        ended: 1 where the episode ended in that step, else 0; (T, E).
        gamma: discount factor.
        gae_lambda: 0 for one-step temporal differences, 1 for Monte Carlo returns.
    """
    discount = gamma * (1 - ended)
    deltas = (rewards + discount * torch.cat([values[1:], last.unsqueeze(0)]) - values).unbind()
    decays = (gae_lambda * discount).unbind()
    advantage, advantages = torch.zeros_like(last), []
    for delta, decay in zip(reversed(deltas), reversed(decays), strict=True):
        advantage = delta + decay * advantage
        advantages.append(advantage)
    return torch.stack(advantages[::-1])
