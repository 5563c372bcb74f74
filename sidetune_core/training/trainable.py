"""Which weights a task trains, and which it has changed."""

from __future__ import annotations

from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.training import Trainable, members
from sidetune_core.training.context import Context


def set_trainable(learner: Learner, trainable: Trainable, context: Context) -> None:
    """Freeze the learner, then release what `Learner.start` returned; the feature cache serves the bases that
    stay frozen.
    """
    freeze(learner)
    for item in members(trainable):
        item.requires_grad_(True)
        if isinstance(item, nn.Module):
            item.train()
    if context.cache is not None:
        context.cache.attach(learner, context.machine.arithmetic)


def freeze(learner: Learner) -> None:
    """No gradients, and eval mode: in training mode batch norm would drift even without a gradient."""
    learner.requires_grad_(False)
    learner.eval()


def digests(learner: Learner) -> dict[str, str]:
    """SHA-256 of every tensor of the state dict, by name."""
    return hashing.digests(
        {name: value for name, value in learner.state_dict().items() if isinstance(value, Tensor)}
    )
