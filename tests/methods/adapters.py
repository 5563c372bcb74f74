"""Parallel residual adapters: 1 x 1 convolutions next to those of a frozen base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, FitError, Heads, Learner, Task


class ResidualAdapters(Learner):
    """Every task adds 1 x 1 convolutions to the outputs of the frozen base's 3 x 3 convolutions (Rebuffi et
    al., CVPR 2018, eq. 2).

    They are zero at first. Norms stay those of the base.

    Raises:
        FitError: the base has no 3 x 3 convolution with a padding of one.
    """

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.adapters = nn.ModuleDict()
        if not self._convs():
            raise FitError("learner 'adapters' needs a base with 3 x 3 convolutions")

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.adapters[task.id] = nn.ModuleList(make_parallel(conv) for conv in self._convs())
        return [self.adapters[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        with self._active(task_id):
            return self.heads.predict(self.base(inputs).encoding, task_id)

    @contextmanager
    def _active(self, task_id: str) -> Iterator[None]:
        """The adapters of a task are hooks of the base's convolutions, with which nothing is cached."""
        with ExitStack() as stack:
            for conv, adapter in zip(self._convs(), self.adapters[task_id], strict=True):
                stack.enter_context(conv.register_forward_hook(partial(add, adapter)))
            yield

    def _convs(self) -> list[nn.Conv2d]:
        convs = [module for module in self.base.modules() if isinstance(module, nn.Conv2d)]
        shape = {"kernel_size": (3, 3), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        return [conv for conv in convs if {name: getattr(conv, name) for name in shape} == shape]


def make_parallel(conv: nn.Conv2d) -> nn.Conv2d:
    """A 1 x 1 convolution from the inputs to the outputs of a 3 x 3 one, of zeros."""
    adapter = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, bias=False)
    nn.init.zeros_(adapter.weight)
    return adapter


def add(adapter: nn.Module, conv: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
    """A forward hook: the output plus that of the adapter."""
    return output + adapter(arguments[0])
