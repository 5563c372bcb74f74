"""Options of the envs whose images are read when they are needed."""

from __future__ import annotations

from typing import Literal

import attrs

from sidetune_core.api import at_least, at_most, more_than, option

from ..classification.stream import ImageOptions
from .scan import Mode


@attrs.frozen
class LazyOptions(ImageOptions):
    """Options of every env of images that are read when they are needed."""

    image_size: int | None = option(
        None,
        "height and width in pixels to which images are resized; by default what the base was trained on, "
        "or 32",
        at_least(8),
    )
    interpolation: Literal["auto", "bilinear", "bicubic"] = option(
        "auto", "filter of the resizing; auto is that of the base, or bilinear"
    )
    crop_fraction: float | None = option(
        None,
        "centre square that is cut out, as a fraction of the shorter side; by default that of the base, or "
        "1. More than 1 adds a black border",
        at_least(0.1),
        at_most(2),
    )
    test_fraction: float = option(
        0.2,
        "fraction of each class held out as the test split if there is none; the same in every run",
        more_than(0),
        at_most(0.9),
    )
    on_error: Literal["raise", "skip"] = option(
        "raise", "what to do about images, rows and classes that cannot be used: stop, or leave them out"
    )
    scan: Mode = option(
        "full",
        "look at files before training: full reads and decodes each of them, headers opens each, names "
        "none; the latter two compare data by names and sizes",
    )
    memory: float = option(1.0, "most memory in GiB for decoded images", at_least(0))
    threads: int = option(2, "threads that decode images; they change no result", at_least(0), at_most(64))


@attrs.frozen
class RowOptions(LazyOptions):
    """Options of `RowStream`, whose images are rows of a library's data set."""

    scan: Literal["full", "names"] = option(
        "full",
        "look at images before training: full decodes each of them, names none, and compares data by the "
        "numbers of the images and their labels",
    )
