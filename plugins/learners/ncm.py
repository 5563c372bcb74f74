"""The nearest class mean (NCM) of a frozen base's encodings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import Batch, Components, Task, option

from ._class_statistics import ClassStatistics


class NCM(ClassStatistics):
    """The nearest class mean, with the base frozen (Mensink et al., TPAMI 2013, eq. 1).

    The class of an input is that of the nearest mean: logits are ``-||B(x) - m_c||**2`` with ``m_c`` the mean
    of ``B(x)`` over the training examples of class c. With ``distance`` cosine, logits are the cosines of the
    angles between ``B(x)`` and ``m_c``. The metric that the paper learns is not learned here.

    Nothing is trained, so that nothing is forgotten: a task adds the means of its classes.
    """

    @attrs.frozen
    class Config:
        """Options of `NCM`."""

        distance: Literal["euclidean", "cosine"] = option(
            "euclidean",
            "compare an encoding with the means by squared distance, or by the angle between them",
        )

    name = "ncm"
    independent_tasks = True

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(components)
        self._config = config

    def scores(self, encodings: Tensor, task_ids: Sequence[str]) -> Tensor:
        means = torch.cat([self.means[task_id] for task_id in task_ids])
        if self._config.distance == "cosine":
            return functional.normalize(encodings, dim=1) @ functional.normalize(means, dim=1).T
        return -torch.cdist(encodings, means, compute_mode="donot_use_mm_for_euclid_dist").square()

    @torch.no_grad()
    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.measure(task, batches)
