"""One peft adapter for each task, inside a frozen base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, FitError, Heads, Learner, Task, at_least, more_than, option

from ._adapters import activate, inject, method_config

LAYERS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "all": (nn.Conv2d, nn.Linear),
    "conv": (nn.Conv2d,),
    "linear": (nn.Linear,),
}


class Peft(Learner):
    """Each task trains its own adapter, by a method of peft, inside the frozen base, and a head.

    LoRA (Hu et al., ICLR 2022) adds a product of two small matrices to the weight of a layer, IA3 (Liu et
    al., NeurIPS 2022) scales its outputs; for others see https://huggingface.co/docs/peft. An adapter is used
    by its own task only and the base's own tensors do not change, so nothing is forgotten. A checkpoint has
    the base once, and an adapter for each task.

    It supports every method that peft inserts layer by layer, and every base with layers that the method
    supports. Batch norms of the base keep their running statistics.

    Raises:
        OptionError: there is no such method, or it has no such option.
        FitError: the base has no layer of the selected type, or the method does not support it.
    """

    @attrs.frozen
    class Config:
        """Options of `Peft`."""

        method: str = option("lora", "method, by peft's name: lora, ia3, loha, lokr, hra, hira, …")
        rank: int | None = option(
            None, "rank of an adapter; None for the method's default (8 in lora)", at_least(1)
        )
        alpha: float | None = option(
            None, "adapters are scaled by alpha / rank; None for the method's default", more_than(0)
        )
        layers: Literal["all", "conv", "linear"] = option(
            "all", "layers of the base with adapters: convolutions (2d), linear layers, or both"
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    independent_tasks = True

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        names = [
            name for name, module in self.base.named_modules() if isinstance(module, LAYERS[config.layers])
        ]
        if not names:
            raise FitError("learner 'peft' finds no layer of the base to adapt; see --learner.layers")
        layers = rf"network\.({'|'.join(map(re.escape, names))})"
        self._adapter = method_config(config.method, layers, config.rank, config.alpha)
        self._owner = f"learner 'peft' with method '{config.method}'"

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [*inject(self._adapter, self.base, task.id, self._owner), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        activate(self.base, task_id)
        uncached = dict(inputs)  # without ids: the base's outputs depend on the task
        return self.heads.predict(self.base(uncached).encoding, task_id, inputs)
