"""Whether a side reads the taps that it declares, and no others: no others are cached."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sidetune_core.errors import PluginError, shorten
from sidetune_core.interfaces.inputs import Features
from sidetune_core.interfaces.networks import Side
from sidetune_core.io.printable import counted
from sidetune_core.seeding import seeded


def check_declared_taps(owner: str, side: Side, inputs: Mapping[str, Tensor], features: Features) -> None:
    """Run a side that sets `tap_indices` with all other taps empty, as the cache serves them.

    Args:
        owner: the side, for messages.
        side: in eval mode.
        inputs: a blank example.
        features: of the base for this example, on the side's device.

    Raises:
        PluginError: it reads other taps, or names some that the base does not have.
    """
    named, count = tuple(side.tap_indices or ()), len(features.taps)
    if unknown := sorted(set(named) - set(range(count))):
        raise PluginError(
            f"{owner} sets tap_indices = {named}, and the base has {counted(count, 'tap')}, numbered from 0: "
            f"there is no tap {shorten(unknown)}. Set indices of base.tap_shapes, or None for all"
        )
    others = [index for index in range(count) if index not in named]
    expected = _encode(side, inputs, features, ())
    if not others or expected is None or _agrees(_encode(side, inputs, features, others), expected):
        return
    read = [index for index in others if not _agrees(_encode(side, inputs, features, [index]), expected)]
    read = read or others  # any one of them is enough
    complete = tuple(sorted({*named, *read}))
    raise PluginError(
        f"{owner} reads {'tap' if len(read) == 1 else 'taps'} {shorten(read)} of the base and sets "
        f"tap_indices = {named}: no others are cached. Set tap_indices = {complete}, or None for all"
    )


def _encode(
    side: Side, inputs: Mapping[str, Tensor], features: Features, emptied: Collection[int]
) -> Tensor | None:
    """The encoding with some taps empty; None if that is an error."""
    taps = tuple(
        tap.new_empty(len(tap), 0) if index in emptied else tap for index, tap in enumerate(features.taps)
    )
    try:
        with torch.no_grad(), seeded(0, "taps"):
            encoding: Tensor = side(inputs, Features(features.encoding, taps))
    except Exception:  # plugins may raise anything
        return None
    return encoding


def _agrees(encoding: Tensor | None, expected: Tensor) -> bool:
    """Whether an encoding is the expected one; on the meta device, whether there is one."""
    if encoding is None or encoding.shape != expected.shape:
        return False
    return encoding.is_meta or torch.allclose(encoding, expected, rtol=0, atol=0, equal_nan=True)
