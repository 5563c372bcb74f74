"""Networks as graphs (torch.fx): tracing them, and finding their residual blocks."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from sidetune_core.api import Block, FitError

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PREFIX = "network."
"""Of the names of submodules of the network in a base's state dict."""
LEAVES = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Classes of layers that remain layers in a continuation, also where a subclass has parts of its own."""


@attrs.frozen(eq=False)
class Traced:
    """A network's graph in one mode."""

    network: nn.Module
    graph: fx.Graph
    owners: Mapping[fx.Node, str]
    """The submodule, by its path, whose forward pass made a node."""
    taps: tuple[fx.Node, ...]
    encoding: fx.Node
    channels_last: frozenset[int] = frozenset()
    """Indices of the taps that are (B, h, w, C) in the graph."""
    shapes: Mapping[fx.Node, tuple[int, ...] | None] | None = None
    """See `shapes_of`; None if they are not known."""


class Tracer(fx.Tracer):
    """Takes modules without parts as one operation, and keeps what each submodule returned."""

    proxy_buffer_attributes = True  # what is computed from them is no constant of the meta device

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, list[Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children()) or isinstance(m, LEAVES)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        self.returned.setdefault(self.path_of_module(m), []).append(output)
        return output

    def owners(self) -> dict[fx.Node, str]:
        """See `Traced`."""
        stacks = {node: node.meta.get("nn_module_stack") or {"": ("", None)} for node in self.graph.nodes}
        return {node: list(stack.values())[-1][0] for node, stack in stacks.items()}


def trace(network: nn.Module, hint: str) -> tuple[Tracer, fx.Graph]:
    """The graph of a network that is called with one input; `hint` is what to do if it has none.

    Raises:
        FitError: its forward pass cannot be traced, as where it depends on the values of tensors.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    constants = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    tracer = Tracer()
    try:
        return tracer, tracer.trace(network, constants)
    except Exception as error:  # whatever the forward pass of the network raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FitError(
            f"the network cannot be continued from a tap: torch.fx cannot trace it ({reason}); {hint}"
        ) from error


def first_node(value: object) -> fx.Node | None:
    """The node of the first tensor in what a module returned; None if there is none."""
    if isinstance(value, fx.Proxy):
        return value.node
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=lambda key: key != "last_hidden_state")]
    if isinstance(value, tuple | list):
        return next((node for part in value if (node := first_node(part)) is not None), None)
    return None


def on_meta(network: nn.Module) -> nn.Module:
    """A copy of a network without the memory of its weights, on the meta device."""
    memo: dict[int, Any] = {id(value): value.to("meta") for value in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
    return copy.deepcopy(network, memo)


@attrs.frozen(eq=False)
class Region:
    """A submodule in a graph that turns one node into one other."""

    entry: fx.Node
    exit: fx.Node
    nodes: frozenset[fx.Node]


def find_blocks(traced: Traced, example: Tensor) -> tuple[Block, ...]:
    """The residual blocks of a graph, and the blocks of the same classes that change the shape.

    A residual block is an innermost submodule with one input and one output, of one shape, which adds its
    input to something.

    Args:
        traced: the network on the meta device, in eval mode.
        example: an input of the network, on the meta device.

    Raises:
        FitError: see `shapes_of`.
    """
    network, regions = traced.network, find_regions(traced)
    shapes = traced.shapes or shapes_of(network, traced.graph, example)
    residual = {
        name
        for name, region in regions.items()
        if shapes[region.entry] == shapes[region.exit]
        and any(
            node.target in ADDITIONS
            and _unwrapped(region.entry, network) in [_unwrapped(arg, network) for arg in node.args]
            for node in region.nodes
        )
    }
    innermost = {name for name in residual if not any(_is_within(other, name) for other in residual)}
    kinds = {type(network.get_submodule(name)) for name in innermost}
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    blocks = [
        (order[region.entry], name)
        for name, region in regions.items()
        if type(network.get_submodule(name)) in kinds
        and (name in innermost or not any(_is_within(other, name) for other in innermost))
    ]
    return tuple(
        Block(PREFIX + name, sum(order[tap] <= entry for tap in traced.taps) - 1, name in innermost)
        for entry, name in sorted(blocks)
    )


def nodes_in_chain(graph: fx.Graph, encoding: fx.Node) -> set[fx.Node]:
    """The nodes before an encoding on which alone it depends."""
    live = live_nodes(graph, encoding)
    nodes = [node for node in graph.nodes if node in live]
    last_use = {argument: index for index, node in enumerate(nodes) for argument in node.all_input_nodes}
    chain, pending = set(), -1  # the last use of a node before
    for index, node in enumerate(nodes):
        if node.op == "get_attr":
            continue
        if pending <= index and node.op != "placeholder":
            chain.add(node)
        pending = max(pending, last_use.get(node, index))
    return chain


def live_nodes(graph: fx.Graph, encoding: fx.Node) -> set[fx.Node]:
    """The nodes on which an encoding depends, with itself."""
    live = {encoding}
    for node in reversed(graph.nodes):
        if node in live:
            live |= set(node.all_input_nodes)
    return live


def find_regions(traced: Traced) -> dict[str, Region]:
    """The submodules that turn one node into one other, by path."""
    live = live_nodes(traced.graph, traced.encoding)
    members: dict[str, set[fx.Node]] = {}
    for node in live:
        path = traced.owners[node]
        while path:
            members.setdefault(path, set()).add(node)
            path = path.rpartition(".")[0]
    regions = {}
    for name, inside in members.items():
        entries = {argument for node in inside for argument in node.all_input_nodes} - inside
        exits = [
            node for node in inside if node is traced.encoding or any(u in live - inside for u in node.users)
        ]
        if len(entries) == len(exits) == 1:
            regions[name] = Region(entries.pop(), exits[0], frozenset(inside))
    return regions


class _ShapeReader(fx.Interpreter):
    """Keeps the shapes of the tensors in a graph; None for other values."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...] | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.shapes[n] = tuple(value.shape) if isinstance(value, Tensor) else None
        return value


def shapes_of(
    network: nn.Module, graph: fx.Graph, example: Tensor
) -> Mapping[fx.Node, tuple[int, ...] | None]:
    """The shapes of the tensors in a graph of a network on the meta device.

    Raises:
        FitError: an operation needs the values of tensors.
    """
    reader = _ShapeReader(network, graph)
    try:
        with torch.no_grad(), torch.device("meta"):
            reader.run(example)
    except (RuntimeError, NotImplementedError, AssertionError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FitError(
            "the network cannot be continued from a tap: its operations need the values of tensors "
            f"({reason})"
        ) from error
    return reader.shapes


def _unwrapped(value: object, network: nn.Module) -> object:
    """A node without the `nn.Identity` modules that it went through."""
    while isinstance(value, fx.Node) and value.op == "call_module":
        if not isinstance(network.get_submodule(str(value.target)), nn.Identity):
            break
        value = value.args[0]
    return value


def _is_within(name: str, container: str) -> bool:
    return name.startswith(f"{container}.")
