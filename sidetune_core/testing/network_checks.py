"""Which bases, sides and mergers of one class are checked: next to which components, on which inputs."""

from __future__ import annotations

from typing import Any

from sidetune_core.testing import continuations
from sidetune_core.testing.findings import Finding, examine
from sidetune_core.testing.given import Given
from sidetune_core.testing.networks import IMAGE_BASE_CHECKS, MERGER_CHECKS, SIDE_CHECKS, TEXT_BASE_CHECKS
from sidetune_core.testing.sample import INPUTS, TEXT, images, texts
from sidetune_core.testing.specimen import (
    MERGER_SHAPES,
    SIDE_SHAPES,
    bases,
    fits,
    mergers,
    sides,
    tiny_base,
    tiny_reader,
)


def check_base(cls: type[Any], config: Any, given: Given | None = None) -> list[Finding]:
    """Findings about a base, on the inputs of a `given` env."""
    more = continuations.CHECKS if continuations.is_continuable(cls) else ()
    if given is not None:
        padded = given.examples([0]).lengths is not None
        checks = TEXT_BASE_CHECKS if padded else IMAGE_BASE_CHECKS
        return examine({"": bases(cls, config, given.inputs, given.examples)}, (*checks, *more))
    of_images, of_text = bases(cls, config, INPUTS, images), bases(cls, config, TEXT, texts)
    if not fits(of_images) and fits(of_text):
        return examine({"": of_text}, (*TEXT_BASE_CHECKS, *more))
    return examine({"": of_images}, (*IMAGE_BASE_CHECKS, *more))


def check_side(cls: type[Any], config: Any, given: Given | None = None) -> list[Finding]:
    """Findings about a side, next to bases of the kit or a `given` one."""
    if given is not None:
        side = sides(cls, config, given.frozen_base(), given.inputs, given.examples)
        return examine({"": side}, SIDE_CHECKS)
    setups = {
        f"next to a base of shape {shape}": sides(cls, config, tiny_base(shape), INPUTS, images)
        for shape in SIDE_SHAPES
    }
    if not any(map(fits, setups.values())):
        setups = {"next to a base that reads tokens": sides(cls, config, tiny_reader(), TEXT, texts)}
    return examine(setups, SIDE_CHECKS)


def check_merger(cls: type[Any], config: Any, given: Given | None = None) -> list[Finding]:
    """Findings about a merger of two and three encodings of several shapes, or of that of a `given` base."""
    shapes = MERGER_SHAPES if given is None else (given.frozen_base().shape,)
    setups = {
        f"on {count} encodings of shape {shape}": mergers(cls, config, shape, count)
        for shape in shapes
        for count in (2, 3)
    }
    return examine(setups, MERGER_CHECKS)
