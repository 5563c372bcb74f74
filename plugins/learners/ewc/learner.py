"""Elastic weight consolidation: fine-tuning that spares the weights which earlier tasks depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Components, Task, at_least, at_most, option

from ..finetune import FineTune
from .fisher import Estimator, Fisher, flat, require_labels


class EWC(FineTune):
    """Fine-tuning with a quadratic pull towards the weights at the end of each earlier task (Kirkpatrick et al., PNAS 2017, eq. 3).

    The loss is ``task + coef * sum_k sum_i F_k,i (w_i - w_k,i)**2`` over the earlier tasks k and the shared weights i: base, and side
    and merger where they are chosen, but never a head. ``w_k`` are the weights after task k and ``F_k`` the diagonal of the Fisher
    information of task k there (see `Fisher` for the estimators). There is no factor 1/2, as in the original side-tuning code: the
    paper's lambda is ``2 coef``.

    ``anchors`` says how tasks are put together. *per-task* is the sum above; as a sum of parabolas is a parabola, it is kept as one
    (``F = sum F_k``, ``w = sum F_k w_k / F`` and a constant), and takes no more memory or time after many tasks. *online* keeps the
    latest weights only, with ``F = decay * F + F_k`` (online EWC of Schwarz et al., Progress & Compress, ICML 2018).

    The fisher *legacy* does what the original code computes rather than what it means: squared gradients of the batch-mean loss, true
    labels, eval mode, averaged over the batches of one pass at the training's batch size; and one running mean over tasks of weights
    and of Fishers, which every one of its ``tasks`` loss objects applies to the same memory after each task. After task k (from 1) what
    was kept before counts ``((k - 1) / k)**tasks`` instead of ``(k - 1) / k``: mostly the last task is protected. `examples`, `anchors`
    and `decay` play no part in it. Not reproduced: a last batch that is short, the stop after a part of Taskonomy's batches, and the
    loss of all this when a run is resumed.

    Running statistics of BatchNorm are no weights and have no gradient: with ``batchnorm`` moving they go with the latest task, whatever
    `coef` is, as in the original code. What belongs to one task alone (``batchnorm`` per-task) needs no penalty and has none.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `EWC`."""

        coef: float = option(1e4, "weight of the penalty, which has no factor 1/2", at_least(0))
        fisher: Estimator = option(
            "exact",
            "squared gradients of: every class by its probability (exact), a class drawn from it (sample), the true one (empirical); of "
            "the means over batches (batched); or as the original code has it, with its averaging over tasks (legacy)",
        )
        examples: int = option(
            500,
            "most training examples of a task that its Fisher is estimated on; legacy takes all",
            at_least(1),
        )
        anchors: Literal["per-task", "online"] = option(
            "per-task", "a pull to the weights after each task, or to the latest only"
        )
        decay: float = option(
            1.0,
            "with anchors 'online', factor of the earlier tasks' Fisher after each task",
            at_least(0),
            at_most(1),
        )
        tasks: int = option(
            10,
            "with fisher 'legacy', how many tasks the stream has: the original averages that often",
            at_least(1),
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.pull = QuadraticPenalty(flat(self._shared()))
        self._config = config

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        if self._config.fisher in ("exact", "sample"):
            require_labels(batch)  # now, not when the task has been learnt
        return {"pull": self._config.coef * self.pull(flat(self._shared()))} if len(self.heads) > 1 else {}

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        config = self._config
        fisher = Fisher(self, task, self._shared()).estimate(config.fisher, batches, config.examples)
        weights = flat(self._shared()).detach()
        if config.fisher == "legacy":
            known = len(self.heads)
            self.pull.average(weights, fisher, ((known - 1) / known) ** config.tasks)
        elif config.anchors == "online":
            self.pull.replace(weights, fisher, config.decay)
        else:
            self.pull.add(weights, fisher)

    def _shared(self) -> dict[str, nn.Parameter]:
        return {
            name: weight
            for name, weight in self.named_parameters()
            if name.startswith(("base.", "side.", "merger."))
        }


class QuadraticPenalty(nn.Module):
    """``sum_i F_i (w_i - a_i)**2 + constant`` of weights w: (P,) to a scalar; zero at first."""

    fisher: Tensor
    anchor: Tensor
    constant: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("fisher", torch.zeros_like(weights, requires_grad=False))
        self.register_buffer("anchor", torch.zeros_like(weights, requires_grad=False))
        self.register_buffer("constant", torch.zeros_like(weights[0], requires_grad=False))

    def forward(self, weights: Tensor) -> Tensor:
        return (self.fisher * (weights - self.anchor).square()).sum() + self.constant

    def add(self, weights: Tensor, fisher: Tensor) -> None:
        """Become the sum of itself and of a pull towards `weights`."""
        total = self.fisher + fisher
        share = torch.where(total > 0, fisher / total, 1.0)
        apart = weights - self.anchor
        self.constant = self.constant + (self.fisher * share * apart.square()).sum()
        self.anchor = torch.lerp(self.anchor, weights, share)
        self.fisher = total

    def replace(self, weights: Tensor, fisher: Tensor, decay: float) -> None:
        """Pull towards `weights` from now on, and as strongly as before times `decay`, and more by `fisher`."""
        self.anchor, self.fisher = weights, decay * self.fisher + fisher

    def average(self, weights: Tensor, fisher: Tensor, kept: float) -> None:
        """Keep a part of what was, in anchor and strength alike."""
        self.anchor = kept * self.anchor + (1 - kept) * weights
        self.fisher = kept * self.fisher + (1 - kept) * fisher
