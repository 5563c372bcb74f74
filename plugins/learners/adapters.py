"""Residual adapters in a frozen base, for each task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, Task, Trainable, at_least, option, parallel_adapter

from ._added_layers import AddedLayers
from ._batchnorm import TaskNorms
from ._task_inference import InferenceOptions


class Adapters(AddedLayers):
    """Every task trains residual adapters in the frozen base, copies of its batch norms, and a head (Rebuffi
    et al., Efficient parametrization of multi-domain deep neural networks, CVPR 2018).

    For a convolution f, a parallel adapter computes ``y = f * x + a * x``, with a of 1 x 1 and the stride of
    f, a series adapter ``y = r(f * x)`` with ``r(z) = z + a * z``. As in the paper, each task has copies of
    the batch norms, statistics included. Convolutions of 1 x 1 have no adapter: it would be as large as they
    are. All adapters are zero at first, so that a task starts at the base. At a linear layer, where the paper
    has none, the adapter is a bottleneck of `rank` units with ReLU, in parallel (He et al., ICLR 2022) or in
    series (Houlsby et al., ICML 2019).

    Side ``fork`` with ``--side.train adapters`` adapts the layers after a cached activation only; this
    learner adapts all of the base, and computes it in each step.
    """

    @attrs.frozen
    class Config(InferenceOptions):
        """Options of `Adapters`."""

        form: Literal["parallel", "series"] = option(
            "parallel", "where an adapter is: next to a layer of the base, or after it"
        )
        rank: int = option(8, "units of the adapter of a linear layer", at_least(1))
        batchnorm: Literal["per-task", "frozen"] = option(
            "per-task", "the base's BatchNorm layers: a trained copy per task, or frozen"
        )

    name = "adapters"
    condition = ", and a convolution wider than 1 x 1"
    _config: Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.norms = TaskNorms() if config.batchnorm == "per-task" else None

    def make(self, layer: nn.Module) -> nn.Module | None:
        parallel = parallel_adapter(layer, self._config.rank)
        if parallel is None or self._config.form == "parallel":
            return parallel
        return series_adapter(layer, self._config.rank)

    def add(self, added: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        adapted: Tensor = added(x if self._config.form == "parallel" else output)
        return output + adapted

    def start(self, task: Task) -> Trainable:
        norms = [] if self.norms is None else [self.norms.add_task(self.base, task)]
        return [*super().start(task), *norms]

    @contextmanager
    def applied(self, task_id: str) -> Iterator[None]:
        with super().applied(task_id):
            if self.norms is None:
                yield
                return
            with self.norms.applied(self.base, task_id):
                yield


def series_adapter(layer: nn.Module, rank: int) -> nn.Module:
    """An adapter of the outputs of a convolution or linear layer, zero at first: a convolution of 1 x 1, or a
    bottleneck of `rank` units with ReLU.
    """
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    device, dtype = layer.weight.device, layer.weight.dtype
    adapter: nn.Module
    last: nn.Module
    if isinstance(layer, nn.Conv2d):
        channels = layer.out_channels
        adapter = last = nn.Conv2d(channels, channels, 1, bias=False, device=device, dtype=dtype)
    else:
        width = layer.out_features
        last = nn.Linear(rank, width, device=device, dtype=dtype)
        adapter = nn.Sequential(nn.Linear(width, rank, device=device, dtype=dtype), nn.ReLU(), last)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return adapter
