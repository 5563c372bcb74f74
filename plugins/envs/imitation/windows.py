"""Trajectories as sequences, which train a policy with memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Inputs, OptionError, Predict
from sidetune_core.rl import POSITION, STATE, Policy

ROWS = 250
"""Rows that are encoded at once where states are computed."""


class Windows:
    """The T steps of concatenated trajectories in windows of W, which gradients flow through (truncated
    backpropagation through time).

    A window begins with the state that the policy had there, which `refresh` computes, and forgets it where a
    trajectory begins. The last window ends with the last step, and may overlap the one before it.

    Args:
        lengths: (n,), of the trajectories.
        width: W; at most T.
        size: units of the GRU.
    """

    def __init__(self, lengths: Tensor, width: int, size: int) -> None:
        steps = int(lengths.sum())
        self.width, self.size = min(width, steps), size
        begun = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self.positions = torch.arange(steps) + begun  # a gap where a trajectory begins
        self.states = torch.zeros(steps, size)
        """(T, size), before each step."""
        self._starts = torch.arange(0, steps, self.width).clamp(max=steps - self.width)

    def __len__(self) -> int:
        return len(self._starts)

    def per_batch(self, batch_size: int) -> int:
        """Number of windows in a batch.

        Raises:
            OptionError: none fits into it.
        """
        if batch_size < self.width:
            raise OptionError(
                f"--train.batch-size {batch_size} is less than --env.memory-window {self.width}, and a batch "
                f"with --env.memory is made of whole windows: --env.memory-window {batch_size}"
            )
        return batch_size // self.width

    def interval(self, batch_size: int) -> int:
        """Batches of a pass, rounded up, after which states are refreshed."""
        return -(-len(self) // self.per_batch(batch_size))

    def rows(self, windows: Tensor) -> Tensor:
        """The steps (B * W,) of B windows."""
        return (self._starts[windows][:, None] + torch.arange(self.width)).flatten()

    def add_context(self, inputs: Inputs, rows: Tensor) -> Inputs:
        """The inputs of some steps, with their states and positions."""
        return attrs.evolve(inputs, context={STATE: self.states[rows], POSITION: self.positions[rows]})

    def unroll(
        self, predict: Predict, inputs: Callable[[Tensor], Inputs], policy: Policy
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some steps (B,) after another with the outputs (B, ...) of a policy that carries its state through
        each trajectory; sets `states`.

        Args:
            predict: the policy.
            inputs: of given steps.
            policy: its family.
        """
        steps, after = len(self.positions), torch.zeros(self.size)
        follows = torch.cat([self.positions.new_zeros(1), self.positions.diff()]) == 1
        for rows in torch.split(torch.arange(steps), ROWS):
            first = int(rows[0])
            self.states[first] = after * follows[first]
            output = predict(self.add_context(inputs(rows), rows)).cpu()
            states = output[:, policy.size : policy.size + self.size]
            self.states[rows[1:]] = states[:-1] * follows[rows[1:], None]
            after = states[-1]
            yield rows, output

    def refresh(self, predict: Predict, inputs: Callable[[Tensor], Inputs], policy: Policy) -> None:
        """Set `states` to those of the present policy."""
        for _ in self.unroll(predict, inputs, policy):
            pass
