"""Which precision pays: the rule of ``--device.precision auto`` on a CPU with bfloat16 units.

Under autocast to bfloat16 convolutions and linear layers are up to four times as fast, and each value that
passes between them is converted, while norms and losses stay in float32. `benchmarks/precision.py` measures
both for sides and whole networks (see docs/benchmarks/cost.md): bfloat16 wins where the layers compute
at least `MIN_INTENSITY` multiply-adds for each of their values, unless the network is tiny. So the base is
often in bfloat16, and a small side in float32. The rule reads shapes only: the same spec has the same
precision on every computer with such units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import attrs
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.module import register_module_forward_hook

Precision = Literal["fp32", "bf16"]

MIN_INTENSITY = 200
"""Multiply-adds per value of a layer's output, on average over a network, from which on bfloat16 pays.
Measured: the time in bfloat16 is 0.3 to 0.8 of that in float32 from 230 on, and 0.8 to 1.3 below 160."""

MIN_MADDS = 1_000_000
"""Multiply-adds of an example below which bfloat16 loses, whatever the layers: overhead dominates."""


@attrs.frozen
class Cost:
    """What the convolutions and linear layers of a network compute for one example."""

    madds: int = 0
    """Multiply-adds."""
    values: int = 0
    """Values of their outputs."""
    narrow: tuple[str, ...] = ()
    """Convolutions that must not be trained in bfloat16 (see `is_narrow`)."""

    @property
    def intensity(self) -> float:
        """Multiply-adds per value."""
        return self.madds / max(1, self.values)

    @property
    def best_precision(self) -> Precision:
        """The faster one on a CPU with bfloat16 units."""
        return "bf16" if self.madds >= MIN_MADDS and self.intensity >= MIN_INTENSITY else "fp32"

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.madds + other.madds, self.values + other.values, self.narrow + other.narrow)


@attrs.frozen
class Precisions:
    """The precision of a frozen base, and that of the networks that are trained."""

    base: Precision
    trained: Precision
    narrow: tuple[str, ...] = ()
    """Trained convolutions for which bfloat16 is wrong (see `is_narrow`)."""
    base_is_trained: bool = False
    """Whether the base is trained too: all networks then have one precision."""


class CostMeter:
    """Adds up the cost of the layers that are called for a batch of one example, also of layers that the
    network does not own, such as those of a base that a side computes with.
    """

    def __init__(self) -> None:
        self.cost = Cost()
        self.training = 0
        """Multiply-adds of a training step: forward, the gradient of the layer's input and, where the network
        owns the layer's weight and may train it, that of the weight."""
        self._counted: set[int] = set()

    @contextmanager
    def counting(self, network: nn.Module, name: str) -> Iterator[None]:
        """Count the layers of a network within a block; `name` is that of the network, for messages."""
        paths = {id(layer): path for path, layer in network.named_modules()}
        trained = {id(weight) for weight in network.parameters() if weight.requires_grad}

        def count(layer: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
            if not isinstance(layer, _ConvNd | nn.Linear):
                return
            path = paths.get(id(layer))
            title = f"{name}.{path}" if path else name
            cost = _cost(layer, inputs[0], output, title if path is not None else "")
            self.cost += cost
            self.training += cost.madds * (3 if id(layer.weight) in trained else 2)
            self._counted.add(id(layer.weight))

        hook = register_module_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()

    def covers(self, network: nn.Module) -> bool:
        """Whether the cost of a network is known: each of its matrices is the weight of a layer that was
        counted, or an embedding. Attention that multiplies by parameters of its own, for one, is not counted.
        """
        embeddings = {
            id(layer.weight)
            for layer in network.modules()
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        }
        known = self._counted | embeddings
        return all(
            id(weight) in known
            for weight in network.parameters()
            if weight.shape[:1] != (1,) and sum(length > 1 for length in weight.shape) > 1
        )


def _cost(layer: _ConvNd | nn.Linear, inputs: Tensor, output: Tensor, title: str) -> Cost:
    """`title` is that of the layer; empty for one that is not trained."""
    sites = inputs if isinstance(layer, _ConvTransposeNd) else output
    madds = sites.numel() * (layer.weight.numel() // layer.weight.shape[0])
    narrow = isinstance(layer, _ConvNd) and is_narrow(layer, inputs, output)
    return Cost(madds, output.numel(), (title,) if narrow and title else ())


def is_narrow(conv: _ConvNd, inputs: Tensor, output: Tensor) -> bool:
    """Whether PyTorch 2.15 computes the gradient of a convolution's weight in bfloat16 on a CPU from memory
    that was never written.

    Measured over 2,500 shapes: it does where kernel and stride along the width are larger than 1 and the
    smaller of the two maps is one value wide, whatever its height and the padding, in either memory format,
    for one to three axes and for transposed convolutions; never for kernels of width 1, for stride 1, or for
    wider maps. Some of these shapes are computed correctly, such as those of depthwise convolutions.
    """
    small = inputs if conv.transposed else output
    return conv.kernel_size[-1] > 1 and conv.stride[-1] > 1 and small.shape[-1] == 1
