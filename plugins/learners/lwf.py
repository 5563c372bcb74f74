"""Learning without forgetting (LwF): fine-tuning with distillation of the old heads' outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    Components,
    Outputs,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    more_than,
    option,
)

from .finetune import FineTune


class LwF(FineTune):
    """Fine-tuning with the network before the task as a teacher of the old heads (Li & Hoiem, ECCV 2016).

    On the new task's inputs, the old heads' outputs are kept near those before the task. With ``p'`` the
    teacher's and ``p`` the current softmax of an old head's logits divided by the temperature T, the loss is
    ``task + coef * T**2 * mean KL(p' || p)``. It differs from eqs. 2 to 4 of the paper by a constant
    (cross-entropy there), by the factor ``T**2``, which makes the gradient's scale independent of T (Hinton
    et al., 2015), and by the mean over the old tasks instead of the sum. As in the paper the old heads are
    trained too; there is no warm-up of the new head.

    In the scenarios ``domain`` and ``class`` the output layer is one, and so is the softmax: p' and p are
    those of the classes before the task, as in Rebuffi et al. (iCaRL, CVPR 2017, sec. 4.1, LwF.MC) and van de
    Ven et al. (2022).

    Logits have their classes along axis 1, (B, classes) or (B, classes, ...). For old tasks with binary
    outputs the divergence is the mean over labels of that of their Bernoulli distributions; for those with
    regression outputs the mean squared error replaces it. Each batch needs a forward pass of a second, frozen
    network.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `LwF`."""

        coef: float = option(
            1.0, "weight of the distillation loss of the old heads (lambda_o in the paper)", at_least(0)
        )
        temperature: float = option(
            2.0,
            "temperature T of softmax or sigmoid; higher values weight small probabilities more",
            more_than(0),
        )
        batchnorm: Literal["trained", "frozen"] = option(
            "trained",
            "the base's BatchNorm layers: trained, or frozen (statistics fixed, scale and shift trained)",
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.teacher: LwF | None = None
        self._coef, self._temperature = config.coef, config.temperature
        self._outputs: dict[str, Outputs] = {}
        """Of each task so far."""

    def start(self, task: Task) -> Trainable:
        self.teacher = None  # a teacher contains no earlier teacher
        self.teacher = copy.deepcopy(self) if self.heads else None
        self._outputs[task.id] = task.outputs
        if self.heads.scenario != "task":  # the output layer is shared, and trained as a whole
            return super().start(task)
        # Without distillation, weight decay alone would change the old heads.
        old_heads = list(self.heads.values()) if self._coef else []
        return [*old_heads, *super().start(task)]

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        encoding = self.encode(batch.inputs, task.id)
        added = {}
        if self.teacher is not None:
            divergence = self._distillation_loss(self.teacher, batch.inputs, task.id, encoding)
            added["divergence"] = self._coef * divergence
        return {"loss": mean_loss(task, self.heads.predict(encoding, task.id, batch.inputs), batch), **added}

    def _distillation_loss(
        self, teacher: LwF, inputs: Mapping[str, Tensor], task_id: str, encoding: Tensor
    ) -> Tensor:
        """Mean over the old tasks; where they share the output layer, over its old classes together."""
        if self.heads.scenario != "task":
            last = teacher.heads.task_ids[-1]
            with torch.no_grad():
                target = teacher.heads.predict(teacher.encode(inputs, last), last, inputs)
            output = self.heads.predict(encoding, last, inputs)
            output = output[:, : target.shape[1]]  # new classes are the last
            return divergence(output, target, self._temperature)
        with torch.no_grad():
            teacher_encoding = teacher.encode(inputs, task_id)
            targets = {old: teacher.heads.predict(teacher_encoding, old, inputs) for old in teacher.heads}
        losses = []
        for old, target in targets.items():
            output = self.heads.predict(encoding, old, inputs)
            if self._outputs[old].is_regression:
                losses.append(functional.mse_loss(output.float(), target.float()))
            elif self._outputs[old].is_binary:
                losses.append(binary_divergence(output, target, self._temperature))
            else:
                losses.append(divergence(output, target, self._temperature))
        return torch.stack(losses).mean()


def divergence(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(softmax(targets / T) || softmax(logits / T))`` over axis 1, mean over the rest."""
    student = functional.log_softmax(logits.float() / temperature, 1)
    teacher = functional.log_softmax(targets.float() / temperature, 1)
    return (
        temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()
    )


def binary_divergence(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(Bernoulli(sigmoid(targets / T)) || Bernoulli(sigmoid(logits / T)))``, mean over all
    labels.
    """
    student, teacher = logits.float() / temperature, targets.float() / temperature
    entropy = functional.binary_cross_entropy_with_logits
    probabilities = teacher.sigmoid()
    return temperature**2 * (entropy(student, probabilities) - entropy(teacher, probabilities))
