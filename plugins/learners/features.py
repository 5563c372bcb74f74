"""Feature extraction: the frozen base and a head for each task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sidetune_core.api import Components, Heads, Task, Trainable

from ._task_inference import InferenceOptions, PerTaskNetworks


class Features(PerTaskNetworks):
    """Train only a head for each task, on the frozen base's encoding."""

    Config = InferenceOptions
    independent_tasks = True

    def __init__(self, config: InferenceOptions, components: Components) -> None:
        super().__init__(config, components)
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> Trainable:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)
