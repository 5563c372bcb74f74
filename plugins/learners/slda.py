"""Streaming linear discriminant analysis (SLDA) of a frozen base's encodings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, BufferDict, Components, Task, Trainable, at_least, at_most, option

from ._class_statistics import ClassStatistics


class SLDA(ClassStatistics):
    """Deep streaming linear discriminant analysis, with the base frozen (Hayes & Kanan, CVPR Workshops 2020).

    Classes have a mean each and share a covariance S. With ``L = ((1 - e) S + e I)^-1``, e the `shrinkage`,
    the logit of class c is ``m_c^T L z - m_c^T L m_c / 2`` for an encoding z (sec. 4.1 of the paper, without
    priors of classes).

    S is the covariance within classes over all examples so far, ``sum (z - m_c)(z - m_c)^T / n``. Each batch
    updates it exactly, so that it does not depend on order. The paper's update weights an example by ``t / (t
    + 1)`` with t the number of all examples before it, where the exact one has the number before it of its
    own class; the two differ in the first examples of a class. There is no phase on a base set of classes: S
    begins with the first task.

    Nothing is trained. A task changes S, and so the logits of earlier classes.
    """

    @attrs.frozen
    class Config:
        """Options of `SLDA`."""

        shrinkage: float = option(
            1e-4, "weight of the identity in the covariance before it is inverted", at_least(0), at_most(1)
        )

    name = "slda"
    covariance: Tensor

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(components)
        self.register_buffer("covariance", torch.zeros(self.channels, self.channels, dtype=torch.float64))
        self.weights = BufferDict()
        """By task id, (classes, C)."""
        self.biases = BufferDict()
        """By task id, (classes,)."""
        self._config = config

    def start(self, task: Task) -> Trainable:
        super().start(task)
        self.weights[task.id] = torch.zeros_like(self.means[task.id])
        self.biases[task.id] = torch.zeros_like(self.means[task.id][:, 0])
        return []

    def scores(self, encodings: Tensor, task_ids: Sequence[str]) -> Tensor:
        weights = torch.cat([self.weights[task_id] for task_id in task_ids])
        return encodings @ weights.T + torch.cat([self.biases[task_id] for task_id in task_ids])

    @torch.no_grad()
    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        before = sum(int(self.counts[earlier].sum()) for earlier in self.counts)
        statistics = self.measure(task, batches)
        examples = before + float(statistics.counts.sum())
        self.covariance = (before * self.covariance + statistics.scatter) / examples
        self._solve()

    def _solve(self) -> None:
        """Compute the weights and biases of all classes."""
        e, covariance = self._config.shrinkage, self.covariance
        identity = torch.eye(len(covariance)).to(covariance)
        inverse = torch.linalg.pinv((1 - e) * covariance + e * identity, hermitian=True)
        for task_id in self.means:
            means = self.means[task_id].double()
            weights = means @ inverse
            self.weights[task_id] = weights.float()
            self.biases[task_id] = -(weights * means).sum(1).float() / 2
