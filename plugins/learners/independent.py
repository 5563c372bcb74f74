"""Independent networks for each task, pretrained or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from sidetune_core.api import Components, Heads, OptionError, Task, Trainable

from ._common import merged_encoding
from ._task_inference import InferenceOptions, PerTaskNetworks


class Independent(PerTaskNetworks):
    """Every task trains its own pretrained base, and its own side and merger if a side is selected.

    Nothing can be forgotten, and there is no transfer between tasks. The cost is a whole network for each
    task, in memory and in every checkpoint.
    """

    Config = InferenceOptions
    optional_components = frozenset({"side", "merger"})
    pretrained: ClassVar[bool] = True
    independent_tasks = True

    def __init__(self, config: InferenceOptions, components: Components) -> None:
        super().__init__(config, components)
        if config.task_inference == "nearest-mean":
            raise OptionError(
                "--learner.task-inference nearest-mean needs a frozen base that all tasks share, and here "
                "each task trains its own; choose max-softmax, energy or entropy"
            )
        self._components = components
        self.bases = nn.ModuleDict()
        self.sides = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(components.base(pretrained=False).shape, config.norm)

    def start(self, task: Task) -> Trainable:
        self.heads.add_task(task)  # first, so that it has the random weights of fine-tuning's head
        base = self._components.base(self.pretrained)
        self.bases[task.id] = base
        if self._components.side is not None:
            self.sides[task.id] = self._components.side(base, self.pretrained)
        if self._components.merger is not None:
            self.mergers[task.id] = self._components.merger(base, 2)
        return [*self._network(task.id), self.heads[task.id]]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(merged_encoding(inputs, *self._network(task_id)), task_id, inputs)

    def _network(self, task_id: str) -> list[nn.Module]:
        """A task's base, and its side and merger if it has them."""
        slots = (self.bases, self.sides, self.mergers)
        return [modules[task_id] for modules in slots if task_id in modules]


class Scratch(Independent):
    """`Independent` without pretraining: every task trains its own base, side and merger from random weights.

    It measures the value of a task's data alone, with the architecture of the baselines. Components without
    an option ``weights`` keep their pretrained weights.
    """

    pretrained = False
