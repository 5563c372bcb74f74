"""Further tokens in the blocks of a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core.api import FitError


class Tokens:
    """Tokens that pass through the blocks of a transformer with its own.

    Args:
        states: (B, P, C) before the first block.
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states
        """(B, P, C), after the latest block."""
        self.passed = 0
        """Blocks that they have passed."""

    def through(self, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What `forward` of a block returns for its own tokens, in the presence of these.

        Raises:
            FitError: the block takes no tokens (B, L, C) of this width.
        """
        own = arguments[0] if arguments else options.get("hidden_states")
        width = self.states.shape[2]
        if not isinstance(own, Tensor) or own.ndim != 3 or own.shape[::2] != self.states.shape[::2]:
            shape = tuple(own.shape[1:]) if isinstance(own, Tensor) else "no tensor"
            needed = f"tokens (L, {width})"
            raise FitError(f"learner 'l2p' needs blocks that take {needed}; the base's take {shape}")
        length, count = own.shape[1], self.states.shape[1]
        joined = torch.cat([own, self.states.to(own.dtype)], 1)
        if arguments:
            arguments = (joined, *(_attended(value, length, count) for value in arguments[1:]))
        options = {name: _attended(value, length, count) for name, value in options.items()}
        if not arguments:
            options["hidden_states"] = joined
        returned = forward(*arguments, **options)
        output = returned[0] if isinstance(returned, tuple) else returned
        self.states = output[:, length:]
        self.passed += 1
        own = output[:, :length]
        return (own, *returned[1:]) if isinstance(returned, tuple) else own


@contextmanager
def prompted(blocks: Sequence[nn.Module], states: Tensor) -> Iterator[Tokens]:
    """Within the context, tokens pass through `blocks` with those of their inputs: all tokens attend to all.
    Between the blocks, the network has its own tokens only.
    """
    tokens = Tokens(states)
    for block in blocks:
        block.forward = partial(tokens.through, block.forward)
    try:
        yield tokens
    finally:
        for block in blocks:
            del block.forward


def transformer_blocks(network: nn.Module) -> list[nn.Module]:
    """The longest list of submodules of one class with attention, in order; empty if there is none."""
    longest: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            children = list(module)
            is_uniform = len({type(child) for child in children}) == 1
            if len(children) > len(longest) and is_uniform and all(map(_has_attention, children)):
                longest = children
    return longest


def _has_attention(block: nn.Module) -> bool:
    return any("attention" in type(part).__name__.lower() for part in block.modules())


def _attended(value: Any, length: int, count: int) -> Any:
    """An attention mask (B, heads, queries, keys) of `length` keys with `count` more, attended by all
    queries; their own queries attend to what any query does. Other values stay.
    """
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[3] != length:
        return value
    attended = torch.ones if value.dtype == torch.bool else torch.zeros  # otherwise added to the scores
    if value.shape[2] == length:
        seen = value.any(2, keepdim=True) if value.dtype == torch.bool else value.amax(2, keepdim=True)
        value = torch.cat([value, seen.expand(-1, -1, count, -1)], 2)
    return torch.cat([value, attended(*value.shape[:3], count).to(value)], 3)
