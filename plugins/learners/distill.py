"""Distillation: train a small side to give what the frozen base gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    Task,
    at_least,
    load_weights,
    normalise,
    option,
)

from ._norm import NormConfig


class Distill(Learner):
    """The side (the student) learns from the base (the teacher), and from the task's labels at once.

    The loss is ``task + coef * difference``. With ``match`` encoding, the difference is ``mean((S(x) - B(x))**2)``, the hint of Romero et
    al. (FitNets, ICLR 2015, eq. 3) without a regressor, since both encodings have one shape. With ``match`` output, it is that of what the
    task's head T makes of both, T being held fixed in it: ``mean((T(S(x)) - T(B(x)))**2)``, or for scores of classes the cross-entropy of
    the student's softmax against the teacher's, as the original code distils through a decoder. T is then best the teacher's own:
    ``--learner.weights FILE`` has the weights of a head that learner ``features`` trained on this base (``sidetune export RUN --part
    heads.TASK``), and keeps it as it is; without a file, T learns from the labels, as the student sees them.

    The student is shared by all tasks; write it to a file with ``sidetune export RUN --part side``, and start sides from it with
    ``--side.weights``.
    """

    @attrs.frozen
    class Config(NormConfig):
        """Options of `Distill`."""

        coef: float = option(1.0, "weight of the difference of student and teacher", at_least(0))
        match: Literal["encoding", "output"] = option(
            "encoding", "what of student and teacher is compared: encodings, or what a head makes of them"
        )
        labels: bool = option(
            True, "whether the student learns from the task's labels too, and not from the teacher alone"
        )
        weights: str = option(
            "none",
            "a file of weights for the head, which is not trained then; 'none' for a head that learns from labels",
        )

    known_failures = {
        "penalty_is_zero_before_anything_is_learnt": "the penalty is the method: the side is drawn to the base from the first step on"
    }
    needs = frozenset({"base", "side"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        assert components.side is not None
        self.base = components.base()
        self.side = components.side(self.base)
        self.heads = Heads(self.base.shape, config.norm)
        self._config = config
        self._numbers: set[str] = set()
        self._difference: Tensor | None = None

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        head = self.heads.add_task(task)
        if task.outputs == "numbers":
            self._numbers.add(task.id)
        if self._config.weights == "none":
            return [self.side, head]
        load_weights(head, self._config.weights, owner=f"the head of task '{task.id}'", packaged=Path("none"))
        return [self.side]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        student = self.side(inputs, features)
        if torch.is_grad_enabled():
            self._difference = self._compare(student, features.encoding, task_id)
            if not self._config.labels:
                student = student.detach()
        return self.heads.predict(student, task_id)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        assert self._difference is not None, "forward runs before penalty"
        difference, self._difference = (
            self._difference,
            None,
        )  # it holds the batch's graph, which is not to outlive the step
        return {"difference": self._config.coef * difference}

    def _compare(self, student: Tensor, teacher: Tensor, task_id: str) -> Tensor:
        """How far the student is from the teacher, a scalar."""
        if self._config.match == "encoding":
            return (student.float() - teacher.float()).square().mean()
        found, wanted = self._decode(student, task_id), self._decode(teacher, task_id).detach()
        if task_id in self._numbers:
            return (found - wanted).square().mean()
        return functional.cross_entropy(found, wanted.softmax(1))

    def _decode(self, encoding: Tensor, task_id: str) -> Tensor:
        """What the task's head gives as it is in evaluation, without a gradient for the head itself."""
        head = self.heads[task_id]
        learning = head.training
        fixed = {name: weight.detach() for name, weight in head.named_parameters()}
        head.eval()
        output: Tensor = functional_call(head, fixed, (normalise(encoding) if self.heads.norm else encoding,))
        head.train(learning)
        return output.float()
