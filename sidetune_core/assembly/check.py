"""Whether components fit together, found out with random weights and a blank example, before weights are
downloaded and data is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sidetune_core.assembly.blank import BlankBase, device_of, moved
from sidetune_core.assembly.make import make_component, without_weights
from sidetune_core.assembly.tap_check import check_declared_taps
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.errors import FitError, SidetuneError
from sidetune_core.interfaces.capabilities import vocabulary_size
from sidetune_core.interfaces.inputs import Features, InputShapes, Shape
from sidetune_core.interfaces.networks import Base, Merger, Side, note_structure
from sidetune_core.system.precision import CostMeter

SPARE_TOKENS = 128
"""Most unused embeddings of a base: vocabulary sizes are often rounded up to a multiple of 64 or 128."""
_Network = TypeVar("_Network", bound=nn.Module)
MAX_ALLOCATED = 50_000_000
"""Parameters above which the shapes of a side or a merger are checked on the meta device, where it takes no
memory; its kernels take seconds to import."""


def make_blank_base(
    component: ResolvedComponent, inputs: InputShapes, tokens: int | None = None, env: str = ""
) -> BlankBase:
    """Build a base with random weights and pass a blank example through it.

    Args:
        component: the base.
        inputs: shapes of the env's inputs.
        tokens: size of the env's vocabulary; None if its inputs are not tokens.
        env: the env, for messages.

    Raises:
        FitError: the base does not accept the inputs, or returns other shapes than it declares.
    """
    base: Base = make_component(component, without_weights(component), inputs)
    note_structure(base)
    base.eval()
    _check_vocabulary(component, base, tokens, env)
    blank = {name: torch.zeros(1, *shape) for name, shape in inputs.items()}
    meter = CostMeter()
    with torch.no_grad(), meter.counting(base, component.owner):
        features = base(blank)
    _check_shape(component, "an encoding", features.encoding, base.shape, "declares")
    for tap, shape in zip(features.taps, base.tap_shapes, strict=False):
        _check_shape(component, "a tap", tap, shape, "declares")
    if len(features.taps) != len(base.tap_shapes):
        raise FitError(
            f"{component.owner} returns {len(features.taps)} taps and declares {len(base.tap_shapes)}"
        )
    madds = meter.cost.madds if meter.covers(base) else None
    return BlankBase(component, base, inputs, features, meter.cost, madds)


def check_side(component: ResolvedComponent, blank: BlankBase, allocate: bool = True) -> Side:
    """Build a side with random weights and pass a blank example through it.

    A side of more than `MAX_ALLOCATED` parameters is built on the meta device.

    Args:
        component: the side.
        blank: the base.
        allocate: build a large side that cannot be built on the meta device.

    Raises:
        FitError: it does not fit the base or the inputs.
        PluginError: it reads other taps than it declares.
    """
    if component.cls.needs_taps and not blank.base.tap_shapes:
        raise FitError(f"{component.owner} needs a base with taps; '{blank.component.plugin.name}' has none")
    config = without_weights(component)

    def make() -> Side:
        side: Side = make_component(component, config, blank.inputs, blank.base)
        return side

    def encode(side: Side, features: Features) -> Tensor:
        encoding: Tensor = side.eval()(blank.blank, features)
        return encoding

    side, encoding = _build(make, encode, blank.features, allocate, component.owner)
    _check_shape(component, "an encoding", encoding, blank.base.shape, "needs the base's shape")
    if component.cls.needs_taps and side.tap_indices is not None:
        with torch.device(device_of(side)):
            check_declared_taps(component.owner, side, blank.blank, moved(blank.features, device_of(side)))
    return side


def check_merger(component: ResolvedComponent, blank: BlankBase, allocate: bool = True) -> Merger:
    """Build a merger and merge two blank encodings; see `check_side`.

    Raises:
        FitError: it does not fit the base.
    """

    def make() -> Merger:
        merger: Merger = make_component(component, component.config, blank.base.shape, 2)
        return merger

    def merge(merger: Merger, features: Features) -> Tensor:
        merged: Tensor = merger.eval()([features.encoding, features.encoding])
        return merged

    merger, merged = _build(make, merge, blank.features, allocate, component.owner)
    _check_shape(component, "an encoding", merged, blank.base.shape, "needs the base's shape")
    return merger


def _build(
    make: Callable[[], _Network],
    call: Callable[[_Network, Features], Tensor],
    features: Features,
    allocate: bool,
    owner: str,
) -> tuple[_Network, Tensor]:
    """A network and its output; on the meta device if it is large."""
    with torch.no_grad():
        try:
            with limited(MAX_ALLOCATED):
                network = make()
            return network, call(network, features)
        except TooLarge:
            pass
        except RuntimeError as error:
            if "allocate memory" not in str(error):  # a single layer that is larger than the memory
                raise
        meta = moved(features, torch.device("meta"))
        try:
            with torch.device("meta"):
                network = make()
                return network, call(network, meta)
        except Exception as error:  # it needs values
            if not allocate and isinstance(error, SidetuneError):
                raise
            if not allocate:
                raise FitError(
                    f"{owner} cannot be checked without memory for its weights ({error})"
                ) from error
        network = make()
        return network, call(network, features)


class TooLarge(Exception):
    """A network has more parameters than are to be allocated."""


@contextmanager
def limited(limit: int) -> Iterator[None]:
    """Raise `TooLarge` as soon as the modules that are made have more parameters than `limit`, which is
    before these are initialised.
    """
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal total
        total += parameter.numel() if parameter is not None else 0
        if total > limit:
            raise TooLarge

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_vocabulary(component: ResolvedComponent, base: Base, tokens: int | None, env: str) -> None:
    """The tokenizer of the env, of this number of tokens, must be the one that the base was trained with."""
    embeddings = vocabulary_size(base)
    if tokens is None or embeddings is None:
        return
    if not 0 <= embeddings - tokens < SPARE_TOKENS:
        raise FitError(
            f"{component.owner} has {embeddings} embeddings and the tokenizer of {env} {tokens} tokens: "
            "choose the tokenizer that the base was trained with"
        )


def _check_shape(component: ResolvedComponent, what: str, value: Tensor, shape: Shape, verb: str) -> None:
    if tuple(value.shape[1:]) != tuple(shape):
        raise FitError(
            f"{component.owner} returns {what} of shape {tuple(value.shape[1:])} and {verb} {tuple(shape)}"
        )
