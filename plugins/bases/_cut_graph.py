"""What a graph of a network computes after a tap, as a module with copies of the network's submodules."""

from __future__ import annotations

import copy
import importlib
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, fx, nn

from sidetune_core.api import Base, Block, Continuation, FitError, select_blocks

from ._continuation import as_trainable, check_copy
from ._graph import PREFIX, Traced, find_regions

IN_PLACE = ("iadd", "isub", "imul", "itruediv")
"""Names of Python's operators that write to their first argument."""


def continue_graph(
    base: Base,
    network: nn.Module,
    traced: Mapping[bool, Traced],
    blocks: Sequence[Block],
    tap: int,
    keep: Collection[int] | None,
    hint: str,
    example: Mapping[str, Tensor],
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
            + f"; {hint}"
        )
    whole = {mode: graph_after(one, tap, ()) for mode, one in traced.items()}
    check_copy(base, GraphAfterTap(network, whole, is_shared=True), tap, example, hint)
    return as_trainable(GraphAfterTap(network, graphs), base)


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
    regions = find_regions(traced) if left_out else {}
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


def _has_one_input(graph: fx.Graph) -> bool:
    return [node.op for node in graph.nodes].count("placeholder") == 1


def _overwrites(node: fx.Node, argument: fx.Node, network: nn.Module) -> bool:
    """Whether a node writes to its first argument in place."""
    if not node.args or node.args[0] is not argument:
        return False
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return bool(node.kwargs.get("inplace")) or str(getattr(node.target, "__name__", "")) in IN_PLACE


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
