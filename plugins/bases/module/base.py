"""Any PyTorch network as a base: a wrapper finds the encoding's shape and the taps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, fx, nn

from sidetune_core.api import Base, Block, Features, FitError, InputShapes, OptionError, option

from .._cut_graph import GraphAfterTap, continue_graph
from .._graph import Traced, find_blocks, first_node, on_meta, trace
from .checks import own_copy, randomise
from .nodes import OUTPUT, Node, run
from .probe import BATCH, Nodes, find_nodes, read, record


class Module(Base):
    """A network of yours, given in Python: ``sidetune_core.run(base=network)``. It is copied, not changed.

    The network is called with one input, and returns a tensor, or a tuple or mapping with tensors, of which
    ``last_hidden_state``, or else the first, counts. By default the encoding is its output; if the last layer
    is a ``Linear`` that returns the output, a classifier, it is dropped, and the encoding is what that
    received. Encoding: (C,), (L, C) or (C, H, W). Taps: by default the last map (C, h, w) of each size,
    largest first; the outputs of the submodules ``--base.taps`` if they are named. Weights are converted to
    float32.

    Raises:
        OptionError: there is no network, or it has no such submodule.
        FitError: the network does not accept the input, cannot be copied, or its output is no encoding.
    """

    @attrs.frozen
    class Config:
        """Options of the wrapper."""

        encoding: str = option(
            "auto",
            "the encoding: name of a submodule, 'output', or 'auto' for the output without the classifier",
        )
        taps: tuple[str, ...] = option(
            ("auto",), "names of the submodules whose outputs are taps, or 'auto'; nothing for no taps"
        )
        input: str = option("image", "name of the input that the network is called with")
        mean: tuple[float, ...] = option((), "mean of each channel, which is subtracted; nothing for none")
        std: tuple[float, ...] = option((), "standard deviation of each channel; nothing for none")
        weights: Literal["given", "none"] = option("given", "weights as they are given, or 'none' (random)")

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes, network: nn.Module | None = None) -> None:
        super().__init__()
        if network is None:
            raise OptionError(
                "base 'module' is a network of yours, which Python gives: sidetune_core.run(base=network, "
                "...), and again where the run is used: load(RUN, base=network), "
                "resume(RUN, base=network, ...), verify(RUN, base=network)"
            )
        if config.input not in inputs:
            raise FitError(
                f"base 'module' is called with the input '{config.input}' (--base.input); "
                f"the env has {', '.join(inputs)}"
            )
        self._input = config.input
        shape = self._shape = tuple(inputs[config.input])
        self._register_stats(config, shape)
        network = own_copy(network)
        if config.weights == "none":
            randomise(network)
        nodes, self._dtype = _find(network, self, shape, config)
        record(nodes)
        self.network = nodes.network
        self.shape, self.tap_shapes = nodes.shape, nodes.tap_shapes
        self._encoding, self._taps, self.dropped = nodes.encoding, nodes.taps, nodes.dropped

    @classmethod
    def from_object(cls, given: Any, config: Config, *arguments: Any) -> Module:
        """See `MadeFromObject`."""
        (inputs,) = arguments
        return cls(config, inputs, given)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) and the taps."""
        recorded = run(self.network, self.prepare(inputs[self._input]))
        return Features(read(recorded, self._encoding), tuple(read(recorded, tap) for tap in self._taps))

    def prepare(self, value: Tensor) -> Tensor:
        """The input of the network: standardised, if there are means, in the type that it takes."""
        if self.mean.numel():
            value = (value - self.mean) / self.std
        return value if self._dtype is None else value.to(self._dtype)

    def summary(self) -> str:
        """What was found, in a line for the user."""
        dropped = f", without its last layer '{self.dropped}'" if self.dropped else ""
        taps = ", ".join(
            f"{node.name} {shape}" for node, shape in zip(self._taps, self.tap_shapes, strict=True)
        )
        return f"encoding '{self._encoding.name}' {self.shape}{dropped}; taps {taps or 'none'}"

    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks of the network, if torch.fx can trace it."""
        try:
            return self._blocks(self._traced(training=False))
        except FitError:
            return ()

    def continued(self, tap: int, keep: Collection[int] | None = None) -> GraphAfterTap:
        """See `Continuable`.

        Raises:
            FitError: also if torch.fx cannot trace the network.
        """
        traced = {training: self._traced(training) for training in (False, True)}
        example, hint = {self._input: self._example()}, "name other submodules by --base.taps"
        return continue_graph(
            self, self.network, traced, self._blocks(traced[False]), tap, keep, hint, example
        )

    def _blocks(self, traced: Traced) -> tuple[Block, ...]:
        return find_blocks(traced, self.prepare(self._example()).to("meta"))

    def _traced(self, training: bool) -> Traced:
        network = on_meta(self.network).train(training)
        tracer, graph = trace(network, "its forward() must not decide by values of tensors")
        (output,) = (node for node in graph.nodes if node.op == "output")

        def find(node: Node) -> fx.Node:
            returned = [output.args[0]] if node.name == OUTPUT else tracer.returned.get(node.name, [])
            found = first_node(returned[node.call]) if -len(returned) <= node.call < len(returned) else None
            if found is None:
                raise FitError(f"torch.fx finds no output of '{node.name}' of the network")
            return found

        return Traced(network, graph, tracer.owners(), tuple(map(find, self._taps)), find(self._encoding))

    def _example(self) -> Tensor:
        """Two inputs of the network, with values in [0, 1]; of a network of tokens, zeros and ones."""
        values = torch.arange(2.0 * math.prod(self._shape), device=self.mean.device).sin().square()
        return (values if self._dtype is None else values.round()).view(2, *self._shape)

    def _register_stats(self, config: Config, shape: tuple[int, ...]) -> None:
        channels = shape[0] if shape else 0
        for name, values in (("mean", config.mean), ("std", config.std)):
            if len(values) not in (0, 1, channels):
                raise OptionError(
                    f"base 'module': {len(values)} values of --base.{name} for {channels} channels"
                )
        if bool(config.mean) != bool(config.std):
            raise OptionError("base 'module': --base.mean and --base.std belong together; give both or none")
        ones = (1,) * (len(shape) - 1)
        for name, values in (("mean", config.mean), ("std", config.std)):
            stats = torch.tensor(values, dtype=torch.float32)
            self.register_buffer(name, stats.reshape(-1, *ones) if values else stats, persistent=False)


def _find(
    network: nn.Module, base: Module, shape: tuple[int, ...], config: Module.Config
) -> tuple[Nodes, torch.dtype | None]:
    """The nodes of a network, and the type that its input is converted to: int64 if it takes no floats, as
    networks of tokens; None for none."""
    blank = torch.zeros(BATCH, *shape)
    base._dtype = None
    with torch.random.fork_rng(devices=[]):
        try:
            return find_nodes(network, base.prepare(blank), config.encoding, config.taps), None
        except FitError as error:
            try:
                return find_nodes(network, blank.long(), config.encoding, config.taps), torch.int64
            except FitError:
                raise error from error.__cause__
