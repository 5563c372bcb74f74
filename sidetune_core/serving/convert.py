"""Files of weights as safetensors, and the components that they fit."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.check import TooLarge, limited
from sidetune_core.config.inventory import Plugin, scan
from sidetune_core.config.kinds import BASE, SIDE, Kind
from sidetune_core.config.plugin_source import module_source
from sidetune_core.config.registry import load
from sidetune_core.errors import SidetuneError, WeightsError
from sidetune_core.interfaces.inputs import Features, Shape
from sidetune_core.interfaces.networks import Base
from sidetune_core.storage.weights import parallel_prefix, read_tensors, write_tensors

SUFFIX = ".safetensors"
IMAGES: tuple[Shape, ...] = ((3, 64, 64), (3, 32, 32))
"""Inputs with which components are built to compare their weights."""
MAX_ALLOCATED = 3_000_000
"""Parameters of a component that is built in memory."""
ENCODINGS: tuple[Shape, ...] = ((8, 4, 4), (64,))
"""Of bases for which sides are built: as a map, and as a vector."""


def convert(path: Path, out: Path) -> dict[str, Tensor]:
    """Write the tensors of a file of weights as safetensors; the code of a pickle is not run.

    Args:
        path: a file of torch.save: a state dict, or an object with a ``state_dict``.
        out: the new file. The prefix ``module.`` of parallel training is removed from its keys.

    Returns:
        The tensors by key.

    Raises:
        WeightsError: `path` has no state dict, or `out` exists.
    """
    if out.exists():
        raise WeightsError(f"{out} exists; choose another file with --out FILE.safetensors")
    tensors = read_tensors(path, skip_objects=True)
    prefix = parallel_prefix(tensors)
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    write_tensors(out, tensors)
    return tensors


@attrs.frozen
class Fit:
    """A component whose parameters and buffers have the keys and shapes of a file."""

    kind: Kind
    name: str


def fitting(tensors: Mapping[str, Tensor]) -> list[Fit]:
    """The installed bases and sides that load these weights with their default options, by building them.

    Only components of images whose option ``weights`` has 'none' are tried, and those whose model is not
    chosen by a name.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    fits = []
    inventory = scan((BASE, SIDE))
    for kind in (BASE, SIDE):
        for plugin in inventory.plugins[kind]:
            if any(_fits(shapes, own) for own in _state_shapes(kind, plugin)):
                fits.append(Fit(kind, plugin.name))
    return fits


def _fits(given: Mapping[str, Shape], own: Mapping[str, Shape]) -> bool:
    """Whether `fill` would load the tensors: ``num_batches_tracked`` may be absent."""
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    same = all(given[key] == shape for key, shape in own.items() if key in given)
    return same and own.keys() - optional <= given.keys() and given.keys() <= own.keys()


def _state_shapes(kind: Kind, plugin: Plugin) -> Iterator[dict[str, Shape]]:
    """The shapes of a component's state dict for several inputs."""
    if not _may_have_weights(plugin):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            component = load(plugin)
        options = {field.name: field for field in attrs.fields(component.Config)}
    except (SidetuneError, AttributeError, attrs.exceptions.NotAnAttrsClassError):
        return  # it needs a package that is not installed, or is not as it should be
    if options.get("weights") is None or options["weights"].type not in (str, "str") or "model" in options:
        return
    config = component.Config(weights="none")
    for image in IMAGES:
        for encoding in ENCODINGS if kind is SIDE else ENCODINGS[:1]:
            arguments = ({"image": image}, _Encodes(encoding)) if kind is SIDE else ({"image": image},)
            try:
                network = _built(component, config, *arguments)
            except Exception:  # noqa: BLE001 - it does not accept these inputs, or cannot be built without memory
                continue
            yield {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _may_have_weights(plugin: Plugin) -> bool:
    """Whether the options in a component's source are those of one that is tried, since importing it may take
    seconds; true where its class has no ``Config`` of its own there."""
    try:
        tree = ast.parse(module_source(plugin))
    except (OSError, SyntaxError, ValueError):
        return True
    name = plugin.target.partition(":")[2].partition("[")[0].strip()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    for node in (node for cls in classes for node in cls.body):
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            types = {ast.unparse(field.target): ast.unparse(field.annotation) for field in fields}
            unknown = "str" if node.bases else ""  # it may have the option from another class
            return types.get("weights", unknown) == "str" and "model" not in types
    return True


def _built(component: type[Any], config: Any, *arguments: Any) -> nn.Module:
    """A component; a large one on the meta device, whose kernels take a second to import."""
    network: nn.Module
    try:
        with limited(MAX_ALLOCATED):
            network = component(config, *arguments)
    except TooLarge:
        with torch.device("meta"):
            network = component(config, *arguments)
    return network


class _Encodes(Base):
    """A base that has a shape and nothing else."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(torch.zeros(1, *self.shape))
