"""How images of any size become the square images (3, S, S) of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]
"""An image (H, W, 3)."""

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic")

MIN_CROP, MAX_CROP = 0.1, 2.0
"""Limits of `crop_to_square`'s fraction; the networks of timm have 0.875 to 1.15."""

RESIZE_BATCH = 1000
"""Images resized at once: as float32 a whole set takes four times the memory."""


class Square(Protocol):
    """Makes an image (H, W, 3) square: (3, size, size) uint8."""

    def __call__(self, pixels: Pixels, size: int) -> Tensor: ...


def square_by_pillow(
    pixels: Pixels, size: int, interpolation: Interpolation = "bilinear", crop_fraction: float = 1.0
) -> Tensor:
    """The centre square of an image (H, W, 3), see `crop_to_square`."""
    from PIL import Image  # not needed with arrays of the right size

    return crop_to_square(Image.fromarray(pixels), size, interpolation, crop_fraction)


def crop_to_square(image: Any, size: int, interpolation: Interpolation, crop_fraction: float) -> Tensor:
    """The centre of a Pillow image (mode RGB), resized by Pillow, as (3, size, size) uint8.

    By default, bilinear and with a `crop_fraction` of 1, it is the largest centred square. Otherwise it is
    what torchvision and timm evaluate networks on: the shorter side is resized to ``size / crop_fraction``,
    rounded down, and the centre of that is cut out; a fraction above 1 adds a black border.
    """
    from PIL import Image, ImageOps

    if interpolation == "bilinear" and crop_fraction == 1:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    else:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transforms

        # a fraction that was computed as size / shorter side comes back as that side
        shorter = math.floor(size / crop_fraction + 1e-9)
        image = transforms.resize(image, [shorter], InterpolationMode(interpolation))
        image = transforms.center_crop(image, [size, size])
    return to_planes(image)


def to_planes(image: Any) -> Tensor:
    """A Pillow image (mode RGB) as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def square_by_box(pixels: Pixels, size: int) -> Tensor:
    """The centre square of an image (H, W, 3), resized by Pillow (average), as (3, size, size) uint8."""
    from PIL import Image

    square = Image.fromarray(np.ascontiguousarray(_centre_square(pixels)))
    return torch.from_numpy(np.array(square.resize((size, size), Image.Resampling.BOX))).permute(2, 0, 1)


def square_by_area(pixels: Pixels, size: int) -> Tensor:
    """The centre square of an image (H, W, 3), resized by PyTorch (average), as (3, size, size) uint8."""
    square = torch.from_numpy(_centre_square(pixels)).permute(2, 0, 1)[None].float()
    return functional.interpolate(square, size=(size, size), mode="area").round().to(torch.uint8)[0]


def square_by_torch(pixels: Pixels, size: int) -> Tensor:
    """The centre square of an image (H, W, 3), resized by PyTorch (bilinear), as (3, size, size) uint8."""
    return center_crop_and_resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], size)[0]


def center_crop_and_resize(pixels: Tensor, size: int) -> Tensor:
    """The largest centred square of uint8 images (B, C, H, W), as (B, C, size, size).

    The filter is bilinear with antialiasing, as in Pillow.
    """
    height, width = pixels.shape[2:]
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    squares = pixels[:, :, top : top + side, left : left + side]
    resized = torch.empty(*pixels.shape[:2], size, size, dtype=torch.uint8)
    for first in range(0, len(pixels), RESIZE_BATCH):
        batch = slice(first, first + RESIZE_BATCH)
        scaled = functional.interpolate(squares[batch].float(), (size, size), mode="bilinear", antialias=True)
        resized[batch] = scaled.round().clamp(0, 255)
    return resized


def _centre_square(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


@attrs.frozen
class Resize:
    """How an env makes an image square."""

    function: Square
    enlarges: bool = True
    """Whether it takes images that are smaller than the result."""
    rotates: bool = False
    """Whether files are rotated as their EXIF data says."""


RESIZES: Mapping[str, Resize] = {
    "pillow": Resize(square_by_pillow, rotates=True),
    "torch": Resize(square_by_torch, rotates=True),
    "area": Resize(square_by_area, enlarges=False),
    "box": Resize(square_by_box, enlarges=False),
}
"""By the names that cards have as their value ``resize``."""
