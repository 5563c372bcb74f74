"""Recurrent policies: a GRU between encoding and actor and critic, whose state is carried across steps.

The state belongs to the episode, not to the network: it is the context of a row of inputs (`Inputs.context`),
and an output has the parameters of the policy, the next state, and the value in the last column. In training,
rows that follow one another are unrolled as a sequence from the state that the first of them had in the
rollout, and gradients flow through all of it (truncated backpropagation through time).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.rl.distributions import Actor, ActorCritic, Policy

STATE = "state"
"""(B, size), float32: the state before each row; zeros where an episode begins."""
POSITION = "position"
"""(B,), int64: a row continues the row before it in the batch if its position is larger by one."""


class RecurrentActor(Actor):
    """Encodings (B, *shape) and a context to (B, policy.size + size): the parameters of a policy, and the
    next state.

    Args:
        shape: of the encodings.
        policy: the family of distributions.
        hidden_size: see `Actor`, on the state of the GRU.
        hidden_layers: see there.
        size: units of the GRU.
    """

    reads_context = True

    def __init__(self, shape: Shape, policy: Policy, hidden_size: int, hidden_layers: int, size: int) -> None:
        super().__init__((size,), policy, hidden_size, hidden_layers)
        self.gru = _make_gru(shape, size)

    def forward(self, encoding: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """See the class; a row without a state begins an episode."""
        states = unroll(self.gru, encoding.flatten(1), context or {})
        return torch.cat([super().forward(states), states], 1)


class RecurrentActorCritic(ActorCritic):
    """As `RecurrentActor`, to (B, policy.size + size + 1), with a value last.

    Args:
        shape: of the encodings.
        policy: the family of distributions.
        hidden_size: see `ActorCritic`, on the state of the GRU.
        hidden_layers: see there.
        size: units of the GRU.
    """

    reads_context = True

    def __init__(self, shape: Shape, policy: Policy, hidden_size: int, hidden_layers: int, size: int) -> None:
        super().__init__((size,), policy, hidden_size, hidden_layers)
        self.gru = _make_gru(shape, size)

    def forward(self, encoding: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """See the class; a row without a state begins an episode."""
        states = unroll(self.gru, encoding.flatten(1), context or {})
        output = super().forward(states)
        return torch.cat([output[:, :-1], states, output[:, -1:]], 1)


def _make_gru(shape: Shape, size: int) -> nn.GRU:
    gru = nn.GRU(math.prod(shape), size, batch_first=True)
    for name, parameter in gru.named_parameters():
        if name.startswith("weight"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return gru


def unroll(gru: nn.GRU, encoding: Tensor, context: Mapping[str, Tensor]) -> Tensor:
    """The state (B, size) after each row of encodings (B, C)."""
    size, count = gru.hidden_size, len(encoding)
    before = context.get(STATE)
    before = encoding.new_zeros(count, size) if before is None else before.to(encoding)
    position = context.get(POSITION)
    if position is None or count == 1 or not bool((follows := position.diff() == 1).any()):
        return gru(encoding.unsqueeze(1), before.unsqueeze(0))[0].squeeze(1)  # type: ignore[no-any-return]
    starts = torch.cat([follows.new_zeros(1), follows]).logical_not().nonzero()[:, 0]
    lengths = torch.cat([starts, starts.new_tensor([count])]).diff()
    runs = pad_sequence(list(torch.split(encoding, lengths.tolist())), batch_first=True)
    packed = pack_padded_sequence(runs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    unrolled, _ = gru(packed, before[starts].unsqueeze(0))
    padded, _ = pad_packed_sequence(unrolled, batch_first=True)
    return torch.cat([row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)])


class Memory:
    """The state of a recurrent policy in E environments; of size 0 for a policy without.

    Args:
        size: units of the GRU.
        count: number of environments.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.state = torch.zeros(count, size)

    def context_of(self, inputs: Inputs, rows: Tensor | None = None) -> Inputs:
        """Inputs (E, ...), or of some of the environments, with the state."""
        if not self.size:
            return inputs
        state = self.state if rows is None else self.state[rows]
        return attrs.evolve(inputs, context={STATE: state})

    def update(self, output: Tensor, policy: Policy) -> None:
        """Take the next state from an output (E, policy.size + size + 1)."""
        if self.size:
            self.state = output[:, policy.size : policy.size + self.size].clone()

    def reset(self, ended: Tensor) -> None:
        """Forget the episodes that have ended, (E,) bool."""
        if self.size:
            self.state[ended] = 0.0


def positions(ended: Tensor) -> Tensor:
    """The `POSITION` (T, E) of the rows of a rollout, of which episodes ended in some steps, (T, E)."""
    length, count = ended.shape
    begun = torch.cat([ended.new_zeros(1, count), ended[:-1]]).long().cumsum(0)
    steps = torch.arange(length)[:, None] + begun  # a gap where an episode begins
    return steps + torch.arange(count) * (2 * length + 2)
