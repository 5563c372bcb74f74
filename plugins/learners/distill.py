"""Distillation: train a small side to give the encoding that the frozen base gives."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Heads, Learner, Parts, Task, at_least, option

from ._norm import NormConfig


class Distill(Learner):
    """The side (the student) learns the base's encoding (the teacher's) and the task's labels at once.

    The loss is ``task + coef * mean((S(x) - B(x))**2)``, the hint of Romero et al. (FitNets, ICLR 2015, eq. 3) without a
    regressor, since both encodings have one shape. The student is shared by all tasks; write it to a file with
    ``sidetune export RUN --part side``, and start sides from it with ``--side.weights``.
    """

    @attrs.frozen
    class Config(NormConfig):
        """Options of `Distill`."""

        coef: float = option(1.0, "weight of the mean squared difference of the two encodings", at_least(0))

    known_failures = {
        "penalty_is_zero_before_anything_is_learnt": "the penalty is the method: the side is drawn to the base from the first step on"
    }
    needs = frozenset({"base", "side"})

    def __init__(self, config: Config, parts: Parts) -> None:
        super().__init__()
        assert parts.side is not None
        self.base = parts.base()
        self.side = parts.side(self.base)
        self.heads = Heads(self.base.shape, config.norm)
        self._config = config
        self._difference: Tensor | None = None

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [self.side, self.heads.start(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        student = self.side(inputs, features)
        if torch.is_grad_enabled():
            self._difference = (student.float() - features.encoding.float()).square().mean()
        return self.heads.predict(student, task_id)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        assert self._difference is not None, "forward runs before penalty"
        difference, self._difference = self._difference, None  # it holds the batch's graph, which is not to outlive the step
        return {"difference": self._config.coef * difference}
