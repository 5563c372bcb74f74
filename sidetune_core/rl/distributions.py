"""Distributions over actions, and the head that gives their parameters and a value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.interfaces.inputs import Shape


class Policy(ABC):
    """A family of distributions over actions.

    Its parameters are (B, size), of which the last `free` columns depend on no input; an action is (B, width), in float32 whatever it is.
    """

    size: int
    free: int = 0
    width: int

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B, width), drawn on the CPU."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely actions, (B, width)."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """The logarithm of the actions' probability or density, (B,)."""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """In nats, (B,)."""


class Categorical(Policy):
    """One or several independent choices; the parameters are their logits, one choice after another.

    Args:
        counts: between how many each choice is; (2,) for left or right.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.size, self.width = sum(self.counts), len(self.counts)

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """By the Gumbel-max trick: the largest of logits less the logarithms of exponential variates."""
        noise = torch.empty_like(parameters).exponential_(generator=generator).log_()
        return self.mode(parameters - noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return torch.stack(
            [choice.argmax(1) for choice in torch.split(parameters, self.counts, 1)], 1
        ).float()

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        chosen = [
            choice.gather(1, actions[:, k : k + 1].long())
            for k, choice in enumerate(self._choices(parameters))
        ]
        return torch.cat(chosen, 1).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return torch.stack([-(choice.exp() * choice).sum(1) for choice in self._choices(parameters)]).sum(0)

    def _choices(self, parameters: Tensor) -> list[Tensor]:
        """The logarithms of the probabilities, choice by choice."""
        return [functional.log_softmax(logits, 1) for logits in torch.split(parameters, self.counts, 1)]


class Gaussian(Policy):
    """Independent normal distributions; the parameters are `width` means, and `width` logarithms of deviations that are free."""

    def __init__(self, width: int) -> None:
        self.size, self.free, self.width = 2 * width, width, width

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = parameters.chunk(2, 1)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, 1)[0]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, 1)
        return (
            -0.5 * ((actions - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        ).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters.chunk(2, 1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(1)


class Actor(nn.Module):
    """Encodings (B, *shape) to the parameters of a policy, (B, policy.size).

    Some tanh layers on the flattened encoding, and a linear one. Orthogonal weights, of gain sqrt(2), then 0.01, and zero biases (Huang et
    al., The 37 Implementation Details of PPO, ICLR Blog Track 2022, detail 2).

    Args:
        shape: of the encodings.
        policy: whose parameters it gives.
        hidden: units of each layer in between.
        layers: how many of those there are.
    """

    def __init__(self, shape: Shape, policy: Policy, hidden: int, layers: int) -> None:
        super().__init__()
        self.actor = _network([math.prod(shape), *[hidden] * layers], policy.size - policy.free, gain=0.01)
        self.free = nn.Parameter(torch.zeros(policy.free)) if policy.free else None

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, policy.size)."""
        columns = [self.actor(encoding.flatten(1))]
        if self.free is not None:
            columns.append(self.free.expand(len(encoding), -1))
        return torch.cat(columns, 1)


class ActorCritic(Actor):
    """Encodings (B, *shape) to the parameters of a policy and a value, (B, policy.size + 1) with the value last.

    Actor and critic are apart, and built alike; the last layer of the critic has gain 1.
    """

    def __init__(self, shape: Shape, policy: Policy, hidden: int, layers: int) -> None:
        super().__init__(shape, policy, hidden, layers)
        self.critic = _network([math.prod(shape), *[hidden] * layers], 1, gain=1.0)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, policy.size + 1)."""
        return torch.cat([super().forward(encoding), self.critic(encoding.flatten(1))], 1)


def _network(widths: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    layers = [
        part for pair in pairwise(widths) for part in (_orthogonal(nn.Linear(*pair), math.sqrt(2)), nn.Tanh())
    ]
    return nn.Sequential(*layers, _orthogonal(nn.Linear(widths[-1], outputs), gain))


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
