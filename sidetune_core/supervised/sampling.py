"""Class imbalance: weights of the classes in the training loss, and balanced sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from sidetune_core.interfaces.tasks import Order
from sidetune_core.seeding import derive_seed

ClassWeights = Literal["none", "balanced"]
Sampling = Literal["uniform", "balanced"]


def class_weights(targets: Tensor, classes: int, rule: ClassWeights = "balanced") -> Tensor | None:
    """Weights (classes,) of the training loss: ``N / (K n_c)`` for a class with n_c of the N examples.

    K is the number of classes that have an example, so that the mean weight of an example is 1. A class
    without examples has weight 0. This is the rule of scikit-learn's ``class_weight="balanced"``, after King
    and Zeng (Political Analysis, 2001).

    Args:
        targets: (N,) classes of the training examples.
        classes: number of classes.
        rule: ``none`` for no weights.
    """
    if rule == "none":
        return None
    counts = torch.bincount(targets, minlength=classes).double()
    present = counts > 0
    weights = len(targets) / (present.sum() * counts.clamp_min(1))
    return torch.where(present, weights, 0.0).float()


def balanced(targets: Tensor, order: Order, *names: object) -> Iterator[Tensor]:
    """Rows (batch_size,) of examples without end: a class uniformly among those with examples, then one of
    its examples uniformly, with replacement.

    The rows of a step depend on (order.seed, names, step) only.

    Args:
        targets: (N,) classes of the training examples.
        order: see `Order`.
        names: of the task.
    """
    members = targets.argsort(stable=True)
    counts = torch.bincount(targets)
    counts = counts[counts > 0]
    first = counts.cumsum(0) - counts
    step = order.first_step
    while True:
        generator = torch.Generator().manual_seed(derive_seed(order.seed, "balanced", *names, step))
        chosen = torch.randint(len(counts), (order.batch_size,), generator=generator)
        position = torch.rand(order.batch_size, generator=generator, dtype=torch.float64) * counts[chosen]
        # float64 has more digits than any count, but a product may round up to the count
        yield members[first[chosen] + torch.minimum(position.long(), counts[chosen] - 1)]
        step += 1
