"""Fine-tuning: one shared network, entirely trainable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, Heads, Learner, OptionError, Renamed, Task, Trainable, option

from ._batchnorm import TaskNorms, trainable_around_batch_norms
from ._common import NormOptions, merged_encoding


class FineTune(Learner):
    """Every task trains the same base and its own head; weights that earlier tasks need are overwritten.

    With a side (``--side fcn4``) the shared network is ``M(B(x), S(x))``, entirely trainable: it has the
    capacity of side-tuning, as the original fine-tuning baseline. In that baseline the base's BatchNorm
    statistics drift from task to task, which causes forgetting by itself; the option ``batchnorm`` separates
    this from forgetting in the weights.
    """

    @attrs.frozen
    class Config(NormOptions):
        """Options of `FineTune`."""

        batchnorm: Literal["trained", "frozen", "per-task"] = option(
            "trained",
            "the base's BatchNorm layers: trained, frozen (statistics fixed, scale and shift trained), or "
            "a copy per "
            "task",
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {
            "batchnorm": Renamed("batchnorm", {"moving": "trained"})
        }

    optional_components = frozenset({"side", "merger"})
    scenarios = frozenset({"task", "domain", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        if config.batchnorm == "per-task" and components.scenario != "task":
            raise OptionError(
                "--learner.batchnorm per-task needs the task of each example, which is unknown in the "
                f"scenario '{components.scenario}'; choose --learner.batchnorm trained or frozen"
            )
        self.base = components.base()
        self.side = components.side(self.base) if components.side else None
        self.merger = components.merger(self.base, 2) if components.merger else None
        self.heads = Heads(self.base.shape, config.norm, components.scenario)
        self.norms = TaskNorms() if config.batchnorm == "per-task" else None
        self._frozen_norms = config.batchnorm == "frozen"

    def start(self, task: Task) -> Trainable:
        others = [module for module in (self.side, self.merger) if module is not None]
        return [*self._start_base(task), *others, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.encode(inputs, task_id), task_id, inputs)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        if task_id is None:
            return super().predict(inputs, None)
        return self.heads.own(self.encode(inputs, task_id), task_id, inputs)

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The input of a task's head before normalisation: (B, *base.shape)."""
        if self.norms is None:
            return merged_encoding(inputs, self.base, self.side, self.merger)
        uncached = dict(inputs)  # without ids: the base's output for an example depends on the task
        with self.norms.applied(self.base, task_id):
            return merged_encoding(uncached, self.base, self.side, self.merger)

    def _start_base(self, task: Task) -> list[nn.Module | nn.Parameter]:
        if self.norms is not None:
            trainable = trainable_around_batch_norms(self.base, affine=False)
            return [*trainable, self.norms.add_task(self.base, task)]
        return trainable_around_batch_norms(self.base, affine=True) if self._frozen_norms else [self.base]
