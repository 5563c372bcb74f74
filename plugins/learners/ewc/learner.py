"""Elastic weight consolidation (EWC): fine-tuning with a quadratic penalty on important weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    Components,
    Renamed,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    at_most,
    option,
)

from ..finetune import FineTune
from .fisher import Estimator, Fisher, require_targets
from .per_example import flat


class EWC(FineTune):
    """Fine-tuning with a quadratic penalty towards the weights after each earlier task.

    Kirkpatrick et al. (PNAS 2017), eq. 3. The loss is ``task + coef * sum_k sum_i F_k,i (w_i - w_k,i)**2``
    over the earlier tasks k and the shared weights i: those of the base, side and merger, but not of heads.
    ``w_k`` are the weights after task k and ``F_k`` is the diagonal of the Fisher information of task k at
    ``w_k`` (see `Fisher` for the estimators). There is no factor 1/2, as in the original side-tuning code:
    the paper's lambda is ``2 coef``.

    ``anchors`` decides how tasks are combined. *per-task* is the sum above, stored as a single quadratic
    (``F = sum F_k``, ``w = sum F_k w_k / F`` and a constant), so that memory and time do not grow with the
    number of tasks. *online* keeps the latest weights only, with ``F = decay * F + F_k`` (online EWC of
    Schwarz et al., Progress & Compress, ICML 2018).

    The fisher *legacy* reproduces the original code: squared gradients of the batch-mean loss with true
    labels in eval mode, averaged over the batches of one epoch at the training's batch size; and one running
    mean over tasks of weights and of Fishers, which the code updates once for each of the ``stream_length``
    tasks after every task. After task k (from 1) the previous mean has weight ``((k - 1) /
    k)**stream_length`` instead of ``(k - 1) / k``, so that mostly the last task is protected. `examples`,
    `anchors` and `decay` do not apply. Not reproduced: a short last batch, the use of a part of Taskonomy's
    batches only, and the loss of the running means on resume.

    The penalty does not cover BatchNorm's running statistics, which have no gradient: with ``batchnorm``
    trained they are those of the latest task for every `coef`, as in the original code. What belongs to a
    single task (``batchnorm`` per-task) needs no penalty and has none.

    In the scenarios ``domain`` and ``class`` the output layer is shared, so it is among the shared weights:
    the Fisher is that of the softmax over all classes so far, and zero for the outputs of later classes (van
    de Ven et al., Nature Machine Intelligence 2022).
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `EWC`."""

        coef: float = option(1e4, "weight of the penalty (without a factor 1/2)", at_least(0))
        fisher: Estimator = option(
            "exact",
            "Fisher estimator: expectation over classes or labels (exact), a sampled class (sample), the "
            "true label (empirical), squared mean gradients of batches (batched), or the original code with "
            "its averaging over tasks (legacy)",
        )
        examples: int = option(
            500, "maximum number of training examples per Fisher estimate; legacy uses all", at_least(1)
        )
        anchors: Literal["per-task", "online"] = option(
            "per-task",
            "penalise distance from the weights after every earlier task, or after the latest only",
        )
        decay: float = option(
            1.0,
            "anchors online: decay of the earlier tasks' Fisher per task (gamma in Schwarz et al.)",
            at_least(0),
            at_most(1),
        )
        stream_length: int = option(
            10, "fisher legacy: number of tasks in the stream, for the original's averaging", at_least(1)
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {
            **FineTune.Config.former_options,
            "tasks": Renamed("stream-length"),
        }

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.pull = QuadraticPenalty(flat(self._shared()))
        self._config = config

    def start(self, task: Task) -> Trainable:
        trainable = super().start(task)
        self.pull.grow(sum(weight.numel() for weight in self._shared().values()))
        return trainable

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        if self._config.fisher in ("exact", "sample"):
            require_targets(batch, task.outputs)  # at the first step rather than after the task
        losses = {**super().losses(batch, task, step)}
        if len(self.heads.task_ids) > 1:
            losses["pull"] = self._config.coef * self.pull(flat(self._shared()))
        return losses

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        config = self._config
        fisher = Fisher(self, task, self._shared()).estimate(config.fisher, batches, config.examples)
        weights = flat(self._shared()).detach()
        if config.fisher == "legacy":
            tasks = len(self.heads.task_ids)
            self.pull.average(weights, fisher, ((tasks - 1) / tasks) ** config.stream_length)
        elif config.anchors == "online":
            self.pull.replace(weights, fisher, config.decay)
        else:
            self.pull.add(weights, fisher)

    def _shared(self) -> dict[str, nn.Parameter]:
        """By name; those of the output layer are the last, in the order of tasks."""
        shared = ("base.", "side.", "merger.", *(() if self.heads.scenario == "task" else ("heads.",)))
        return {name: weight for name, weight in self.named_parameters() if name.startswith(shared)}


class QuadraticPenalty(nn.Module):
    """``sum_i F_i (w_i - a_i)**2 + constant`` of weights w: (P,) to a scalar; initially zero."""

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

    def grow(self, size: int) -> None:
        """Make room for `size` weights: the new ones, at the end, have no penalty."""
        new = size - len(self.fisher)
        if new:
            self.fisher = functional.pad(self.fisher, (0, new))
            self.anchor = functional.pad(self.anchor, (0, new))

    def add(self, weights: Tensor, fisher: Tensor) -> None:
        """Add the penalty of another task."""
        total = self.fisher + fisher
        fraction = torch.where(total > 0, fisher / total, 1.0)
        distance = weights - self.anchor
        self.constant = self.constant + (self.fisher * fraction * distance.square()).sum()
        self.anchor = torch.lerp(self.anchor, weights, fraction)
        self.fisher = total

    def replace(self, weights: Tensor, fisher: Tensor, decay: float) -> None:
        """Make `weights` the only anchor, with the previous Fisher times `decay` plus `fisher`."""
        self.anchor, self.fisher = weights, decay * self.fisher + fisher

    def average(self, weights: Tensor, fisher: Tensor, momentum: float) -> None:
        """Update running means of anchor and Fisher, in which the previous mean has weight `momentum`."""
        self.anchor = momentum * self.anchor + (1 - momentum) * weights
        self.fisher = momentum * self.fisher + (1 - momentum) * fisher
