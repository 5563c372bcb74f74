"""Networks as graphs (torch.fx): what follows a node of a network, and its residual blocks."""

from __future__ import annotations

import copy
import importlib
import inspect
import operator
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from sidetune_core.api import Base, Block, Continuation, FitError, select_blocks

from ._continuation import as_trainable, check_copy

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
IN_PLACE = ("iadd", "isub", "imul", "itruediv")
"""Names of Python's operators that write to their first argument."""
PREFIX = "network."
"""Of the names of submodules of the network in a base's state dict."""


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


LEAVES = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Classes of layers that remain layers in a continuation, also where a subclass has parts of its own."""


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


class GraphAfterTap(Continuation):
    """A graph from a tap to the encoding, with copies of the submodules that it calls.

    Args:
        network: where these are; the copy has them by the same names in a member ``network``.
        graphs: in eval mode (False) and in training mode (True), with one placeholder.
        is_shared: share the parameters and buffers with the network instead of copying them.
    """

    def __init__(self, network: nn.Module, graphs: Mapping[bool, fx.Graph], is_shared: bool = False) -> None:
        super().__init__()
        tensors = (*network.parameters(), *network.buffers()) if is_shared else ()
        self.network = _copy_targets(network, graphs.values(), {id(tensor): tensor for tensor in tensors})
        self._programs = {mode: Program.of(graph) for mode, graph in graphs.items()}

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        encoding: Tensor = self._programs[self.training](self.network, tap)
        return encoding


@attrs.frozen(eq=False)
class Program:
    """The generated code of a graph, which can be copied and pickled, other than its function."""

    source: str
    names: Mapping[str, Any]
    modules: Mapping[str, str]
    """Global names that stand for modules, by the modules' names."""
    function: Callable[..., Any] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        namespace = {**self.names, **{k: importlib.import_module(v) for k, v in self.modules.items()}}
        exec(compile(self.source, "<continuation>", "exec"), namespace)
        object.__setattr__(self, "function", namespace["forward"])

    @classmethod
    def of(cls, graph: fx.Graph) -> Program:
        code = graph.python_code("self")
        modules = {k: v.__name__ for k, v in code.globals.items() if isinstance(v, types.ModuleType)}
        return cls(code.src, {k: v for k, v in code.globals.items() if k not in modules}, modules)

    def __call__(self, network: nn.Module, tap: Tensor) -> Any:
        return self.function(network, tap)

    def __deepcopy__(self, memo: object) -> Program:
        return self

    def __reduce__(self) -> Any:
        return Program, (self.source, self.names, self.modules)


@attrs.frozen(eq=False)
class Region:
    """A submodule in a graph that turns one node into one other."""

    entry: fx.Node
    exit: fx.Node
    nodes: frozenset[fx.Node]


def on_meta(network: nn.Module) -> nn.Module:
    """A copy of a network without the memory of its weights, on the meta device."""
    memo: dict[int, Any] = {id(value): value.to("meta") for value in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
    return copy.deepcopy(network, memo)


def find_blocks(traced: Traced, example: Tensor) -> tuple[Block, ...]:
    """The residual blocks of a graph, and the blocks of the same classes that change the shape.

    A residual block is an innermost submodule with one input and one output, of one shape, which adds its
    input to something.

    Args:
        traced: the network on the meta device, in eval mode.
        example: an input of the network, on the meta device.
    """
    shapes, regions, network = (
        shapes_of(traced.network, traced.graph, example),
        _regions(traced),
        traced.network,
    )
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


def graph_after(traced: Traced, tap: int, left_out: Collection[str]) -> fx.Graph:
    """The graph from a tap, its first placeholder, to the encoding; it has others if that depends on more.

    Args:
        traced: the whole graph.
        tap: index of the tap.
        left_out: paths of blocks that return their input instead.
    """
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, nodes)
    with graph.inserting_before(next(iter(graph.nodes))):
        given = begin = graph.placeholder("tap")
    if tap in traced.channels_last:
        with graph.inserting_after(given):
            begin = graph.call_method("permute", (given, 0, 2, 3, 1))
    replaced = {nodes[traced.taps[tap]]: begin}
    regions = _regions(traced) if left_out else {}
    for name in left_out:
        if name in regions:
            entry, last = nodes[regions[name].entry], nodes[regions[name].exit]
            replaced[last] = replaced.get(entry, entry)
    for old, new in replaced.items():
        old.replace_all_uses_with(new)
    encoding = nodes[traced.encoding]
    encoding = replaced.get(encoding, encoding)
    needed = {encoding}
    for node in reversed(graph.nodes):
        if node in needed:
            needed |= set(node.all_input_nodes)
        elif node is not given:
            graph.erase_node(node)
    graph.output(encoding)
    if any(_overwrites(user, begin, traced.network) for user in begin.users):
        with graph.inserting_after(begin):
            copied = graph.call_method("clone", (begin,))
        begin.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    return graph


def continue_graph(
    base: Base,
    network: nn.Module,
    traced: Mapping[bool, Traced],
    blocks: Sequence[Block],
    tap: int,
    keep: Collection[int] | None,
    hint: str = "",
    example: Mapping[str, Tensor] | None = None,
) -> GraphAfterTap:
    """What follows a tap of a base whose network was traced.

    Args:
        base: its taps are those of the graphs.
        network: has the submodules that the graphs call, with the base's weights; in the base its name is
            ``network``.
        traced: by mode, True for training.
        blocks: see `find_blocks`.
        tap: see `Continuable`.
        keep: see `Continuable`.
        hint: what else to do where the encoding depends on more than the tap.
        example: inputs for which the encodings of the base and the copy are compared.

    Raises:
        FitError: see `Continuable`; the message lists the taps that work.
    """
    kept = select_blocks(blocks, len(base.tap_shapes), tap, keep)
    left_out = [
        block.name.removeprefix(PREFIX)
        for number, block in enumerate(blocks)
        if block.after >= tap and number not in kept
    ]
    graphs = {mode: graph_after(one, tap, left_out) for mode, one in traced.items()}
    if not all(map(_has_one_input, graphs.values())):
        taps = range(len(base.tap_shapes))
        possible = [k for k in taps if all(_has_one_input(graph_after(t, k, ())) for t in traced.values())]
        raise FitError(
            f"the network cannot be continued from tap {tap}, since its encoding depends on more than that; "
            + (f"taps that work: {', '.join(map(str, possible))}" if possible else "it has no tap that works")
            + (f"; {hint}" if hint else "")
        )
    if example is not None:
        whole = {mode: graph_after(one, tap, ()) for mode, one in traced.items()}
        check_copy(base, GraphAfterTap(network, whole, is_shared=True), tap, example, hint)
    return as_trainable(GraphAfterTap(network, graphs), base)


def _has_one_input(graph: fx.Graph) -> bool:
    return [node.op for node in graph.nodes].count("placeholder") == 1


def nodes_in_chain(graph: fx.Graph, encoding: fx.Node) -> set[fx.Node]:
    """The nodes before an encoding on which alone it depends."""
    live = _live(graph, encoding)
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


def _live(graph: fx.Graph, encoding: fx.Node) -> set[fx.Node]:
    """The nodes on which an encoding depends, with itself."""
    live = {encoding}
    for node in reversed(graph.nodes):
        if node in live:
            live |= set(node.all_input_nodes)
    return live


def _regions(traced: Traced) -> dict[str, Region]:
    """The submodules that turn one node into one other, by path."""
    live = _live(traced.graph, traced.encoding)
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
    """The shapes of the tensors in a graph of a network on the meta device."""
    reader = _ShapeReader(network, graph)
    with torch.no_grad(), torch.device("meta"):
        reader.run(example)
    return reader.shapes


def _overwrites(node: fx.Node, argument: fx.Node, network: nn.Module) -> bool:
    """Whether a node writes to its first argument in place."""
    if not node.args or node.args[0] is not argument:
        return False
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return bool(node.kwargs.get("inplace")) or str(getattr(node.target, "__name__", "")) in IN_PLACE


def _unwrapped(value: object, network: nn.Module) -> object:
    """A node without the `nn.Identity` modules that it went through."""
    while isinstance(value, fx.Node) and value.op == "call_module":
        if not isinstance(network.get_submodule(str(value.target)), nn.Identity):
            break
        value = value.args[0]
    return value


def _is_within(name: str, container: str) -> bool:
    return name.startswith(f"{container}.")


def _copy_targets(network: nn.Module, graphs: Iterable[fx.Graph], memo: dict[int, Any]) -> nn.Module:
    """A module with copies of the submodules, parameters and buffers that graphs read, by the same names.

    `memo` is that of `copy.deepcopy`.
    """
    copied = nn.Module()
    targets = {
        str(node.target) for graph in graphs for node in graph.nodes if node.op in ("call_module", "get_attr")
    }
    for target in sorted(targets):  # a module before its members
        *path, name = target.split(".")
        source, owner = network, copied
        for part in path:
            source = source.get_submodule(part)
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if not hasattr(source, name):  # a tensor that forward() makes
            raise FitError(
                f"the network cannot be continued from a tap: torch.fx takes '{target}' for a constant"
            )
        value = copy.deepcopy(getattr(source, name), memo)
        if name in source._buffers:
            owner.register_buffer(name, value, persistent=name not in source._non_persistent_buffers_set)
        else:
            setattr(owner, name, value)
    return copied
