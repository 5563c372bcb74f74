"""Learning without forgetting: fine-tuning that keeps the outputs of the old heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Batch, Components, Task, at_least, more_than, option

from .finetune import FineTune


class LwF(FineTune):
    """Fine-tuning, with the network as it was before the task as the teacher of the old heads (Li & Hoiem, ECCV 2016).

    On the new task's inputs, the old heads should go on giving what they gave before the task. With ``p'`` the teacher's and ``p`` the
    present softmax of an old head's outputs divided by the temperature T, the loss is ``task + coef * T**2 * mean KL(p' || p)``. It is
    eqs. 2 to 4 of the paper but for a constant (cross-entropy there), the factor ``T**2`` that keeps the gradient's size the same for
    every T (Hinton et al., 2015), and the mean over the old tasks, where the paper takes the sum. As in the paper the old heads are
    trained too; its warm-up, in which the new head alone is trained, is left out.

    Outputs that are scores have their classes along axis 1, (B, classes) or (B, classes, ...). For old tasks whose outputs are numbers, the
    mean squared difference takes the place of the divergence. A batch costs a second, frozen network.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `LwF`."""

        coef: float = option(1.0, "weight of the divergence of the old heads' outputs", at_least(0))
        temperature: float = option(
            2.0, "divides outputs before the softmax; the higher, the more low scores count", more_than(0)
        )
        batchnorm: Literal["moving", "frozen"] = option(
            "moving",
            "the base's BatchNorm layers: trained like all else, or frozen statistics (scale and shift are trained)",
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.teacher: LwF | None = None
        self._coef, self._temperature = config.coef, config.temperature
        self._numbers: set[str] = set()
        self._divergence: Tensor | None = None

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.teacher = None  # not to be in its own successor
        self.teacher = copy.deepcopy(self) if self.heads else None
        if task.outputs == "numbers":
            self._numbers.add(task.id)
        taught = (
            list(self.heads.values()) if self._coef else []
        )  # without a teacher, weight decay would be all that moves them
        return [*taught, *super().start(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding = self.encode(inputs, task_id)
        if torch.is_grad_enabled() and self.teacher is not None:
            self._divergence = self._diverge(self.teacher, inputs, task_id, encoding)
        return self.heads.predict(encoding, task_id)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        if self.teacher is None:
            return {}
        assert self._divergence is not None, "forward runs before penalty"
        divergence, self._divergence = (
            self._divergence,
            None,
        )  # it holds the batch's graph, which is not to outlive the step
        return {"divergence": self._coef * divergence}

    def _diverge(self, teacher: LwF, inputs: Mapping[str, Tensor], task_id: str, encoding: Tensor) -> Tensor:
        """How far the old heads' outputs are from the teacher's, a mean over old tasks."""
        with torch.no_grad():
            before = teacher.encode(inputs, task_id)
            targets = {old: teacher.heads.predict(before, old) for old in teacher.heads}
        found = []
        for old, target in targets.items():
            output = self.heads.predict(encoding, old)
            if old in self._numbers:
                found.append(functional.mse_loss(output.float(), target.float()))
            else:
                found.append(divergence(output, target, self._temperature))
        return torch.stack(found).mean()


def divergence(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(softmax(targets / T) || softmax(scores / T))`` over axis 1 of (B, classes, ...), a mean over the others."""
    now = functional.log_softmax(scores.float() / temperature, 1)
    before = functional.log_softmax(targets.float() / temperature, 1)
    return temperature**2 * functional.kl_div(now, before, reduction="none", log_target=True).sum(1).mean()
