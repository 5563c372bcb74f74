"""Layers of a task's own in a frozen base, added to what its layers compute."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Components,
    FitError,
    Heads,
    InputShapes,
    Task,
    Trainable,
    called_layers,
)

from ._task_inference import InferenceOptions, PerTaskNetworks


class AddedLayers(PerTaskNetworks):
    """A frozen base, in which each task has layers of its own next to convolutions and linear layers.

    The base stores nothing for a task, and no task changes it, so nothing is forgotten. Its outputs depend on
    the task: they are not cached, and each step is a forward pass of the base and a backward pass through it.
    Layers that the base does not call as modules, such as those within `torch.nn.MultiheadAttention`, stay
    as they are, and so do those of subclasses, such as timm's ``StdConv2d``.

    Raises:
        FitError: there is no layer to add to.
    """

    name: ClassVar[str]
    independent_tasks = True

    def __init__(self, config: InferenceOptions, components: Components) -> None:
        super().__init__(config, components)
        self._config = config
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        self.added = nn.ModuleDict()
        """By task id, a list of the added layers in the order of `layers`."""
        called = _called(self.base, components.inputs)
        self._names = [name for name in called if self.make(self.base.get_submodule(name)) is not None]
        if not self._names:
            raise FitError(
                f"learner '{self.name}' finds no layer to add to: the base calls none that is a "
                f"torch.nn.Conv2d or torch.nn.Linear itself{self.condition}; choose another base, "
                "or --learner finetune"
            )

    @property
    @abstractmethod
    def condition(self) -> str:
        """What else a layer has to be, for a message."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of the base that are added to."""
        return [self.base.get_submodule(name) for name in self._names]

    @abstractmethod
    def make(self, layer: nn.Module) -> nn.Module | None:
        """A new layer to add to one of the base, zero at first; None to leave that as it is."""

    @abstractmethod
    def add(self, added: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """What takes the place of the output of a base's layer for an input x."""

    def start(self, task: Task) -> Trainable:
        self.added[task.id] = nn.ModuleList(
            made for layer in self.layers if (made := self.make(layer)) is not None
        )
        return [self.added[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        with self.applied(task_id):
            encoding = self.base(dict(inputs)).encoding  # without ids: it depends on the task
        return self.heads.predict(encoding, task_id, inputs)

    @contextmanager
    def applied(self, task_id: str) -> Iterator[None]:
        """Within a ``with`` block, the base computes with a task's layers; a base folds no norm into a layer
        with a hook."""
        added = self.added[task_id]
        assert isinstance(added, nn.ModuleList)
        with ExitStack() as stack:
            for layer, own in zip(self.layers, added, strict=True):
                stack.enter_context(layer.register_forward_hook(self._hook(own), with_kwargs=True))
            yield

    def _hook(self, added: nn.Module) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
            return self.add(added, args[0] if args else kwargs["input"], output)

        return hook


def _called(base: nn.Module, inputs: InputShapes) -> list[str]:
    """The names of the layers that a base calls for a blank example."""
    device = next((weight.device for weight in base.parameters()), None)
    blank = {name: torch.zeros(1, *shape, device=device) for name, shape in inputs.items()}
    was_training = base.training
    try:
        return called_layers(base.eval(), lambda: base(blank))
    finally:
        base.train(was_training)
