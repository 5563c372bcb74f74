"""Distillation: train a small side to imitate the frozen base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    Outputs,
    Renamed,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    load_weights,
    mean_loss,
    normalise,
    option,
)

from ._common import NormOptions


class Distill(Learner):
    """Train the side (the student) on the outputs of the base (the teacher) and on the task's labels.

    The loss is ``task + coef * difference``. With ``match`` encoding, the difference is ``mean((S(x) -
    B(x))**2)``, the hint of Romero et al. (FitNets, ICLR 2015, eq. 3) without a regressor, since both
    encodings have the same shape. With ``match`` output, the outputs of the task's head T for both are
    compared, with T fixed: ``mean((T(S(x)) - T(B(x)))**2)`` for regression, and for logits the cross-entropy
    of the student's softmax (of each label's sigmoid, where outputs are binary) with respect to the
    teacher's, as the original code distils through a decoder. T
    should then be the teacher's own head: ``--learner.head-weights FILE`` loads a head that learner
    ``features`` trained on this base (``sidetune export RUN --part heads.TASK``) and freezes it; without a
    file, T is trained on the labels, with the student's encodings.

    All tasks share the student. Export it with ``sidetune export RUN --part side``, and initialise sides
    with it with ``--side.weights``.
    """

    @attrs.frozen
    class Config(NormOptions):
        """Options of `Distill`."""

        coef: float = option(1.0, "weight of the difference between student and teacher", at_least(0))
        match: Literal["encoding", "output"] = option(
            "encoding", "compare the encodings of student and teacher, or the outputs of the head for them"
        )
        labels: bool = option(True, "train the student on the task's labels too, not on the teacher alone")
        head_weights: str = option(
            "none", "file of weights for a frozen head; 'none' for a head trained on the labels"
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {"weights": Renamed("head-weights")}

    needs = frozenset({"base", "side"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        assert components.side is not None
        self.base = components.base()
        self.side = components.side(self.base)
        self.heads = Heads(self.base.shape, config.norm)
        self._config = config
        self._outputs: dict[str, Outputs] = {}

    def start(self, task: Task) -> Trainable:
        head = self.heads.add_task(task)
        self._outputs[task.id] = task.outputs
        if self._config.head_weights == "none":
            return [self.side, head]
        load_weights(head, self._config.head_weights, owner=f"the head of task '{task.id}'")
        return [self.side]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.side(inputs, self.base(inputs)), task_id, inputs)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        features = self.base(batch.inputs)
        student = self.side(batch.inputs, features)
        difference = self._compare(student, features.encoding, task.id)
        if not self._config.labels:
            student = student.detach()
        loss = mean_loss(task, self.heads.predict(student, task.id, batch.inputs), batch)
        return {"loss": loss, "difference": self._config.coef * difference}

    def _compare(self, student: Tensor, teacher: Tensor, task_id: str) -> Tensor:
        """The difference between student and teacher, a scalar."""
        if self._config.match == "encoding":
            return (student.float() - teacher.float()).square().mean()
        output, target = self._decode(student, task_id), self._decode(teacher, task_id).detach()
        if self._outputs[task_id].is_regression:
            return (output - target).square().mean()
        if self._outputs[task_id].is_binary:
            return functional.binary_cross_entropy_with_logits(output, target.sigmoid())
        return functional.cross_entropy(output, target.softmax(1))

    def _decode(self, encoding: Tensor, task_id: str) -> Tensor:
        """The output of the task's head in eval mode, without gradients for the head's parameters."""
        head = self.heads[task_id]
        was_training = head.training
        fixed = {name: weight.detach() for name, weight in head.named_parameters()}
        head.eval()
        output: Tensor = functional_call(head, fixed, (normalise(encoding) if self.heads.norm else encoding,))
        head.train(was_training)
        return output.float()
