"""Fine-tuning: one shared network, all of it trainable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, Heads, Learner, Task, option

from ._batchnorm import TaskNorms, all_but_batch_norms
from ._merged import merged
from ._norm import NormConfig


class FineTune(Learner):
    """Every task trains the same base, and a head of its own; what earlier tasks needed may be overwritten.

    With a side (``--side fcn4``) the shared network is ``M(B(x), S(x))``, all of it trainable: the capacity of side-tuning, as the
    original fine-tuning baseline has it. In that baseline the base's BatchNorm statistics drift from task to task, which forgets by
    itself; the option ``batchnorm`` takes this apart from what the weights forget.
    """

    @attrs.frozen
    class Config(NormConfig):
        """Options of `FineTune`."""

        batchnorm: Literal["moving", "frozen", "per-task"] = option(
            "moving",
            "the base's BatchNorm layers: trained like all else, frozen statistics (scale and shift are trained), or a copy for each task",
        )

    optional_components = frozenset({"side", "merger"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.side = components.side(self.base) if components.side else None
        self.merger = components.merger(self.base, 2) if components.merger else None
        self.heads = Heads(self.base.shape, config.norm)
        self.norms = TaskNorms() if config.batchnorm == "per-task" else None
        self._frozen_norms = config.batchnorm == "frozen"

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        beside = [part for part in (self.side, self.merger) if part is not None]
        return [*self._start_base(task), *beside, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.encode(inputs, task_id), task_id)

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """What a task's head is fed with, before normalisation: (B, *base.shape)."""
        if self.norms is None:
            return merged(inputs, self.base, self.side, self.merger)
        plain = dict(
            inputs
        )  # without ids: what the base makes of an example depends on the task, and is not to be stored
        with self.norms.inside(self.base, task_id):
            return merged(plain, self.base, self.side, self.merger)

    def _start_base(self, task: Task) -> list[nn.Module | nn.Parameter]:
        if self.norms is not None:
            return [*all_but_batch_norms(self.base, affine=False), self.norms.start(self.base, task)]
        return all_but_batch_norms(self.base, affine=True) if self._frozen_norms else [self.base]
