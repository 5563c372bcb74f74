"""Where the encoding and the taps of a network are: one forward pass on blank examples finds them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import FitError, OptionError, Shape, shorten

from .nodes import OUTPUT, Node, Record, first_tensor, shape_of, tensors_in

BATCH = 2
"""Blank examples of the forward pass: with one, a network that squeezes its output would lose an axis."""


@attrs.define(eq=False)
class Call:
    """One call of a submodule in the forward pass."""

    node: Node
    module: nn.Module
    received: Tensor | None
    tensor: Tensor | None
    """What stands for its output (see `first_tensor`)."""
    version: int
    """Of the tensor, when it was returned."""

    @property
    def shape(self) -> Shape:
        return () if self.tensor is None else shape_of(self.tensor)

    @property
    def is_rewritten(self) -> bool:
        """Whether a later layer has written to the output in place."""
        return self.tensor is not None and self.tensor._version != self.version


@attrs.frozen(eq=False)
class Trace:
    """The calls of a forward pass, in the order in which they ended."""

    calls: Sequence[Call]
    output: Any


@attrs.frozen
class Nodes:
    """The encoding and the taps of a network."""

    network: nn.Module
    """Without the classifier, if that is dropped."""
    encoding: Node
    shape: Shape
    taps: tuple[Node, ...]
    tap_shapes: tuple[Shape, ...]
    copied: frozenset[str]
    """Names of submodules whose outputs are written to in place."""
    dropped: str = ""
    """Name of the classifier that is dropped; empty if there is none."""


def trace(network: nn.Module, value: Tensor) -> Trace:
    """Run a network, with hooks for the time of the call.

    Raises:
        FitError: the network does not accept the input.
    """
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def make_hook(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            tensor, call = first_tensor(output), counts.get(name, 0)
            counts[name] = call + 1
            version = 0 if tensor is None else tensor._version
            calls.append(Call(Node(name, call), module, first_tensor(arguments), tensor, version))

        return hook

    handles = [
        module.register_forward_hook(make_hook(name)) for name, module in network.named_modules() if name
    ]
    try:
        with torch.no_grad():
            output = network(value)
    except Exception as error:  # whatever a network raises for an input that it does not take
        raise FitError(
            f"base 'module': {type(network).__name__} does not accept an input of shape "
            f"{shape_of(value)} ({value.dtype}): {type(error).__name__}: {_first_line(error)}{_hint(value)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Trace(calls, output)


def find_nodes(network: nn.Module, value: Tensor, encoding: str, taps: Sequence[str]) -> Nodes:
    """Choose the encoding and the taps of a network.

    Args:
        network: of the user; a classifier that is dropped is replaced in it.
        value: blank examples (B, *shape).
        encoding: ``auto``, ``output``, or the name of a submodule.
        taps: ``auto``, or names of submodules; empty for no taps.

    Raises:
        FitError: the network does not accept the input, or the encoding is none.
        OptionError: there is no such submodule, or it is not called.
    """
    first = trace(network, value)
    dropped = ""
    if encoding == "auto":
        found = _classifier(network, first)
        if found is not None and (shorter := _without(network, found.node.name, value, found)) is not None:
            network, dropped = shorter, found.node.name
            first = trace(network, value)
        encoding = dropped or OUTPUT
    output = Call(Node(OUTPUT, 0), network, None, first_tensor(first.output), 0)
    main = output if encoding == OUTPUT else _last_call(first.calls, encoding, network, "encoding")
    if main.tensor is None:
        what = f"the output of '{encoding}'" if encoding != OUTPUT else "the output"
        raise FitError(
            f"base 'module': {what} is a {type(first.output).__name__} without a tensor; choose a submodule "
            "by --base.encoding NAME (Python: base={'module': network, 'encoding': NAME})"
        )
    _check_kind(main, value, encoding)
    chosen = (
        _auto_taps(first.calls, value)
        if tuple(taps) == ("auto",)
        else [_last_call(first.calls, name, network, "taps") for name in taps]
    )
    used = [main, *chosen]
    return Nodes(
        network=network,
        encoding=main.node,
        shape=main.shape,
        taps=tuple(call.node for call in chosen),
        tap_shapes=tuple(call.shape for call in chosen),
        copied=frozenset(call.node.name for call in used if call.is_rewritten) - {OUTPUT},
        dropped=dropped,
    )


def record(nodes: Nodes) -> None:
    """Give the submodules that are read their hooks, for good."""
    modules = dict(nodes.network.named_modules())
    for name in sorted({node.name for node in (nodes.encoding, *nodes.taps)} - {OUTPUT}):
        modules[name].register_forward_hook(Record(name, name in nodes.copied))


def read(recorded: Mapping[str, Sequence[Tensor | None]], node: Node) -> Tensor:
    """The output of a node in a forward pass.

    Raises:
        FitError: the network took another way than in the pass that found its nodes.
    """
    outputs = recorded.get(node.name, ())
    tensor = outputs[node.call] if -len(outputs) <= node.call < len(outputs) else None
    if tensor is None:
        raise FitError(
            f"base 'module': '{node.name}' was not called, or returned no tensor: the network computes other "
            "layers for other inputs; name the encoding and the taps by --base.encoding and --base.taps"
        )
    return tensor


def _classifier(network: nn.Module, traced: Trace) -> Call | None:
    """The call of the last layer, if that is a `Linear` which returns the network's output, and is not the
    only one with weights."""
    leaves = [call for call in traced.calls if not any(True for _ in call.module.children())]
    if not leaves or not isinstance(leaves[-1].module, nn.Linear):
        return None
    last = leaves[-1]
    if not any(tensor is last.tensor for tensor in tensors_in(traced.output)):
        return None
    if last.node.call or not (set(network.parameters()) - set(last.module.parameters())):
        return None
    return last


def _without(network: nn.Module, name: str, value: Tensor, classifier: Call) -> nn.Module | None:
    """A copy of the network whose classifier is an `Identity`; None if it cannot be run without it, or
    computes something else then."""
    shorter = copy.deepcopy(network)
    parent, _, member = name.rpartition(".")
    setattr(shorter.get_submodule(parent), member, nn.Identity())
    try:
        calls = [call for call in trace(shorter, value).calls if call.node.name == name]
    except FitError:
        return None
    same = len(calls) == 1 and calls[0].tensor is not None and classifier.received is not None
    return shorter if same and torch.equal(calls[0].tensor, classifier.received) else None  # type: ignore[arg-type]


def _last_call(calls: Sequence[Call], name: str, network: nn.Module, option: str) -> Call:
    """The last call of a submodule that is named by an option."""
    for call in reversed(calls):
        if call.node.name == name and call.tensor is not None:
            return attrs.evolve(call, node=Node(name))
    names = [known for known, _ in network.named_modules() if known]
    if name in names:
        raise OptionError(
            f"base 'module': submodule '{name}' (--base.{option}) is not called, or returns no tensor"
        )
    raise OptionError(
        f"base 'module': {type(network).__name__} has no submodule '{name}' (--base.{option}); it has "
        f"{shorten(names, 12)}"
    )


def _check_kind(main: Call, value: Tensor, name: str) -> None:
    assert main.tensor is not None
    if main.tensor.ndim not in (2, 3, 4) or len(main.tensor) != len(value):
        raise FitError(
            f"base 'module': the encoding '{name}' is a tensor {tuple(main.tensor.shape)} for "
            f"{len(value)} examples; expected (B, C), (B, L, C) or (B, C, H, W): choose a submodule by "
            "--base.encoding NAME (Python: base={'module': network, 'encoding': NAME})"
        )
    if not main.tensor.is_floating_point():
        raise FitError(
            f"base 'module': the encoding '{name}' is a tensor of {main.tensor.dtype}, not of floats"
        )


def _auto_taps(calls: Sequence[Call], value: Tensor) -> list[Call]:
    """The last map (C, h, w) of each spatial size, largest first, as base 'torchvision' has them."""
    if value.ndim != 4:
        return []
    height, width = value.shape[2:]
    taps: list[Call] = []
    largest = 0
    for call in reversed(calls):
        shape = call.shape
        if len(shape) != 3 or call.tensor is None or len(call.tensor) != len(value):
            continue
        if abs(shape[1] * width - shape[2] * height) > max(height, width):
            continue  # channels last
        if shape[1] * shape[2] > max(largest, 1):
            largest = shape[1] * shape[2]
            taps.append(call)
    return taps[::-1]


def _hint(value: Tensor) -> str:
    """What to do about images (B, H, W, C)."""
    if value.ndim == 4 and value.shape[3] in (1, 3, 4) and value.shape[1] not in (1, 3, 4):
        return "; the channels seem to be the last axis: permute them to (C, H, W), with transform="
    return ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
