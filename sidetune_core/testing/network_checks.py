"""Which bases, sides and mergers of one class are checked: next to which components, on which inputs."""

from __future__ import annotations

from typing import Any

from sidetune_core.testing.findings import Finding, examine
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


def check_base(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a base."""
    of_images, of_text = bases(cls, config, INPUTS, images), bases(cls, config, TEXT, texts)
    if not fits(of_images) and fits(of_text):
        return examine({"": of_text}, TEXT_BASE_CHECKS)
    return examine({"": of_images}, IMAGE_BASE_CHECKS)


def check_side(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a side, next to bases of the kit."""
    setups = {
        f"next to a base of shape {shape}": sides(cls, config, tiny_base(shape), INPUTS, images)
        for shape in SIDE_SHAPES
    }
    if not any(map(fits, setups.values())):
        setups = {"next to a base that reads tokens": sides(cls, config, tiny_reader(), TEXT, texts)}
    return examine(setups, SIDE_CHECKS)


def check_merger(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a merger of two and three encodings of several shapes."""
    setups = {
        f"on {count} encodings of shape {shape}": mergers(cls, config, shape, count)
        for shape in MERGER_SHAPES
        for count in (2, 3)
    }
    return examine(setups, MERGER_CHECKS)
