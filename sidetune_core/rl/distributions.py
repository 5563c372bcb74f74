"""Distributions over actions, and the actor and critic heads that predict their parameters and a value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.errors import Diverged, RolloutError
from sidetune_core.interfaces.inputs import Shape


class Policy(ABC):
    """A family of distributions over actions.

    Its parameters are (B, size), of which the last `free` columns depend on no input. Actions are (B, width),
    always float32.
    """

    size: int
    free: int = 0
    width: int

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Sample actions (B, width) on the CPU."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely actions, (B, width)."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probability or log-density of the actions, (B,)."""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """In nats, (B,)."""

    def masked(self, parameters: Tensor, mask: Tensor, title: str, when: str) -> Tensor:
        """Parameters under which actions that are invalid have no probability.

        Args:
            parameters: (B, size).
            mask: (B, size), bool, False where an action is invalid.
            title: of the task, for messages.
            when: which step it is, for messages.

        Raises:
            RolloutError: no action is valid, or the family cannot be masked.
        """
        raise RolloutError(
            f"{title}: the environment masks actions, and those of {type(self).__name__} are no choices"
        )

    def is_defined(self, parameters: Tensor) -> bool:
        """Whether parameters (B, size) are those of distributions: by default, whether all are finite."""
        # a sum is finite if all terms are, unless it overflows, and takes a fraction of the time
        return math.isfinite(float(parameters.sum())) or bool(parameters.isfinite().all())


class Categorical(Policy):
    """One or several independent categorical distributions, whose parameters are the concatenated logits.

    Args:
        counts: number of categories of each; (2,) for left or right.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.size, self.width = sum(self.counts), len(self.counts)

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """By the Gumbel-max trick: the argmax of the logits minus the logarithm of exponential variates."""
        noise = torch.empty_like(parameters).exponential_(generator=generator).log_()
        return self.mode(torch.sub(parameters, noise, out=noise))

    def mode(self, parameters: Tensor) -> Tensor:
        if len(self.counts) == 1:
            return parameters.argmax(1, keepdim=True).float()
        choices = [logits.argmax(1) for logits in torch.split(parameters, self.counts, 1)]
        return torch.stack(choices, 1).float()

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        columns = torch.split(actions.long(), 1, 1)
        pairs = zip(self._log_probs(parameters), columns, strict=True)
        chosen = [log_probs.gather(1, column) for log_probs, column in pairs]
        return torch.cat(chosen, 1).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        entropies = []
        for log_probs in self._log_probs(parameters):
            masked = log_probs.isneginf()
            summands = log_probs.exp() * log_probs.masked_fill(masked, 0.0)  # p log p is 0 where p is 0
            entropies.append(-summands.sum(1))
        return torch.stack(entropies).sum(0)

    def masked(self, parameters: Tensor, mask: Tensor, title: str, when: str) -> Tensor:
        """With logits of minus infinity for invalid actions."""
        valid = torch.stack([part.any(1) for part in torch.split(mask, self.counts, 1)], 1)
        if not valid.all():
            env = int((~valid.all(1)).nonzero()[0])
            raise RolloutError(f"{title}: the action mask of environment {env} allows no action ({when})")
        return parameters.masked_fill(~mask.to(parameters.device), -math.inf)

    def _log_probs(self, parameters: Tensor) -> list[Tensor]:
        """(B, count) for each of the distributions."""
        parts = (parameters,) if len(self.counts) == 1 else torch.split(parameters, self.counts, 1)
        return [functional.log_softmax(logits, 1) for logits in parts]

    def is_defined(self, parameters: Tensor) -> bool:
        """Logits of -inf are actions that are masked; every distribution needs another one."""
        if super().is_defined(parameters):
            return True
        largest = [logits.amax(1) for logits in torch.split(parameters, self.counts, 1)]
        return bool(torch.stack(largest).isfinite().all())  # amax of NaN is NaN


class Gaussian(Policy):
    """Independent normal distributions.

    The parameters are `width` means, and `width` logarithms of standard deviations that depend on no input.
    """

    def __init__(self, width: int) -> None:
        self.size, self.free, self.width = 2 * width, width, width

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = parameters.chunk(2, 1)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, 1)[0]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, 1)
        squares = ((actions - mean) / log_std.exp()).square()
        return (-0.5 * squares - log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters.chunk(2, 1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(1)


def check_policy(policy: Policy, parameters: Tensor, title: str, when: str) -> None:
    """Check that parameters (B, size) are those of a policy.

    Args:
        policy: the family of distributions.
        parameters: the learner's output.
        title: of the task, for the message.
        when: which step it is, for the message: ``step 3 of training``.

    Raises:
        Diverged: they are NaN or infinite.
    """
    if not policy.is_defined(parameters):
        raise Diverged(
            f"{title}: the policy's outputs are not finite ({when})",
            "Try a smaller --train.lr, or --device.precision fp32",
        )


class Actor(nn.Module):
    """Encodings (B, *shape) to the parameters of a policy, (B, policy.size).

    Tanh layers on the flattened encoding, then a linear layer. Orthogonal initialisation, with gain sqrt(2)
    in the hidden layers and 0.01 in the last, and zero biases (Huang et al., The 37 Implementation Details of
    PPO, ICLR Blog Track 2022, detail 2).

    Args:
        shape: of the encodings.
        policy: the family of distributions whose parameters it predicts.
        hidden_size: units of each hidden layer.
        hidden_layers: number of hidden layers.
    """

    def __init__(self, shape: Shape, policy: Policy, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [math.prod(shape), *[hidden_size] * hidden_layers]
        self.actor = _network(widths, policy.size - policy.free, gain=0.01)
        self.free = nn.Parameter(torch.zeros(policy.free)) if policy.free else None

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, policy.size)."""
        columns = [self.actor(encoding.flatten(1))]
        if self.free is not None:
            columns.append(self.free.expand(len(encoding), -1))
        return torch.cat(columns, 1)


class ActorCritic(Actor):
    """Encodings (B, *shape) to the parameters of a policy and a value, (B, policy.size + 1) with the value
    last.

    Actor and critic share no layers and have the same architecture; the last layer of the critic has gain 1.
    """

    def __init__(self, shape: Shape, policy: Policy, hidden_size: int, hidden_layers: int) -> None:
        super().__init__(shape, policy, hidden_size, hidden_layers)
        self.critic = _network([math.prod(shape), *[hidden_size] * hidden_layers], 1, gain=1.0)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, policy.size + 1)."""
        return torch.cat([super().forward(encoding), self.critic(encoding.flatten(1))], 1)


def _network(widths: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, units in pairwise(widths):
        layers += [_orthogonal(nn.Linear(inputs, units), math.sqrt(2)), nn.Tanh()]
    return nn.Sequential(*layers, _orthogonal(nn.Linear(widths[-1], outputs), gain))


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
