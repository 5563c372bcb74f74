"""Image spaces: which Box spaces are images, and their conversion to channels first.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from .parts import Space

Array = NDArray[Any]
Layout = Literal["HWC", "CHW", "HW", "SHWC"]

MAX_BYTE = 255.0

MIN_SIDE = 7
"""Least height and width of images that are not (H, W, C) bytes: smaller arrays are vectors."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, as Pillow's conversion to grayscale."""


@attrs.frozen
class ImageOptions:
    """See the options of env 'gym'."""

    grayscale: bool = False
    size: int | None = None


def image_layout(space: Space, bytes_only: bool = False) -> Layout | None:
    """The axes of images in a space; None if it has none.

    Three axes are (H, W, C) or (C, H, W): the two that are equal are height and width. Otherwise the first is
    that of channels if it is at most 4, or at most 16 with a width of 32 or more, and the last is longer than
    4. Two axes are a grayscale image if values are between 0 and 1 or 0 and 255, and four (S, H, W, C) a
    stack of S images. Except for (H, W, C) bytes, height and width are at least `MIN_SIDE`.

    Args:
        space: any.
        bytes_only: know (H, W, C) bytes alone, as version 0.1 did.
    """
    if not isinstance(space, spaces.Box):
        return None
    shape, is_bytes = space.shape, space.dtype == np.uint8
    if bytes_only:
        return "HWC" if is_bytes and len(shape) == 3 else None
    if len(shape) == 2:
        ranges_over_unit = _top(space) in (1.0, MAX_BYTE) and bool((space.low == 0).all())
        return "HW" if ranges_over_unit and min(shape) >= MIN_SIDE else None
    if len(shape) == 4:
        return "SHWC" if _is_channels(shape[3]) and min(shape[1:3]) >= MIN_SIDE else None
    if len(shape) != 3:
        return None
    first, middle, last = shape
    channels_first = first != middle and (middle == last or _is_first(first, last))
    if is_bytes and not channels_first:
        return "HWC"
    sides = (middle, last) if channels_first else (first, middle)
    if min(sides) < MIN_SIDE:
        return "HWC" if is_bytes else None
    return "CHW" if channels_first else "HWC"


class ImageConverter:
    """Images (C, H, W): bytes as they are, all others as float32.

    Floats and larger integers whose values range from 0 to a finite maximum are divided by it.

    Args:
        space: of the raw images.
        layout: of its axes.
        options: see there.

    Attributes:
        space: of the converted images.
        unit: by which a network input is divided.
    """

    def __init__(self, space: spaces.Box, layout: Layout, options: ImageOptions) -> None:
        self._raw, self._layout, self._options = space, layout, options
        self._is_bytes = space.dtype == np.uint8
        top = _top(space)
        self._divisor = 1.0 if self._is_bytes or top is None or (space.low < 0).any() else top
        self.unit = 1.0 if not self._is_bytes else top or MAX_BYTE
        blank = self.convert(np.zeros(space.shape, space.dtype))
        self.space: spaces.Box
        if self._is_bytes:
            self.space = spaces.Box(0, 255, blank.shape, np.uint8)
        else:
            low, high = (
                (0.0, 1.0) if self._divisor != 1.0 else (float(space.low.min()), float(space.high.max()))
            )
            self.space = spaces.Box(low, high, blank.shape, np.float32)

    def convert(self, value: Any) -> Array:
        """A raw image as (C, H, W)."""
        image = np.asarray(value)
        if image.shape != self._raw.shape:
            raise ValueError(f"an image has shape {image.shape}, and its space is {self._raw}")
        if not self._is_bytes:
            image = image.astype(np.float32) / np.float32(self._divisor)
        if self._layout == "SHWC":
            return np.concatenate([self._channels_first(frame) for frame in image])
        if self._layout == "CHW":
            image = image.transpose(1, 2, 0)
        elif self._layout == "HW":
            image = image[:, :, None]
        return self._channels_first(image)

    def _channels_first(self, image: Array) -> Array:
        """An image (H, W, C), in grayscale or resized if requested, as (C, H, W)."""
        if self._options.grayscale and image.shape[2] == 3:
            if self._is_bytes:
                image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[:, :, None]
            else:
                image = (image @ LUMA)[:, :, None]
        size = self._options.size
        if size is not None:
            whole = self._is_bytes and image.shape[2] == 3
            planes = [image] if whole else [image[:, :, k] for k in range(image.shape[2])]
            resized = [
                Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BOX)
                for plane in planes
            ]
            image = np.dstack([np.asarray(plane) for plane in resized])
        return image.transpose(2, 0, 1).copy()


def _top(space: spaces.Box) -> float | None:
    """The largest value of all elements, if it is positive, finite and the same for all."""
    if not space.high.size or not (space.high == space.high.flat[0]).all():
        return None
    top = float(space.high.flat[0])
    is_limit = space.dtype.kind in "iu" and space.dtype.itemsize > 1 and top == np.iinfo(str(space.dtype)).max
    return top if 0 < top < np.inf and not is_limit else None


def _is_first(first: int, last: int) -> bool:
    """Whether the first of two different axes is that of channels; (9, 7, 20) are symbols of a grid."""
    return last > 4 and (first <= 4 or (first <= 16 and last >= 32))


def _is_channels(count: int) -> bool:
    return count in (1, 3, 4)
