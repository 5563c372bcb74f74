"""Random augmentation of training images: every random number comes from a generator that is passed in.

The numbers are drawn in the order of torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip`` and
``ColorJitter``, so that those return the same images for the same seed of PyTorch's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._image_squares import Interpolation

Augment = Literal["none", "crop-flip", "resized-crop", "resized-crop-color"]
"""The options: none; a shift by up to 4 pixels and a flip; a random part of the image, resized, and a flip;
the same and random brightness, contrast, saturation and hue."""

FROM_FILES: tuple[Augment, ...] = ("resized-crop", "resized-crop-color")
"""Those that start from the original image, not from its square."""

CROP_PADDING = 4
"""Pixels of black border from which random crops are taken."""

CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of a random part of an image: its area as a fraction of the image's, and width / height (Szegedy et al.,
2015, section 6)."""

CROP_ATTEMPTS = 10

COLOUR_RANGE, HUE_RANGE = (0.6, 1.4), (-0.1, 0.1)
"""Factors of brightness, contrast and saturation, and the shift of the hue as a fraction of the circle."""


def batch_augment(augment: Augment) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    """The augmentation of a batch of stored images (B, C, H, W) uint8, which keep their size; None for
    none."""
    if augment == "none":
        return None
    return crop_flip if augment == "crop-flip" else partial(_resized_crops, augment=augment)


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of each image of (B, C, H, W) after 4-pixel zero padding, and horizontal flip with
    probability 1/2.

    The augmentation of He et al. (2016) for CIFAR.
    """
    return _shift_and_flip(pixels, *_draw_shifts(len(pixels), generator))


def crop_flip_each(pixels: Tensor, seeds: Sequence[int]) -> Tensor:
    """`crop_flip` of each image with a seed of its own."""
    generator = torch.Generator()
    shifts, flips = zip(*(_draw_shifts(1, generator.manual_seed(seed)) for seed in seeds), strict=True)
    return _shift_and_flip(pixels, torch.cat(shifts, 1), torch.cat(flips))


def random_resized_crop(
    image: Any, size: int, interpolation: Interpolation, augment: Augment, generator: torch.Generator
) -> Any:
    """A random part of a Pillow image, resized to (size, size), flipped with probability 1/2, and with
    ``resized-crop-color`` in random colours.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    top, left, height, width = _draw_box(image.height, image.width, generator)
    mode = InterpolationMode(interpolation)
    image = transforms.resized_crop(image, top, left, height, width, [size, size], mode)
    if float(torch.rand(1, generator=generator)) < 0.5:
        image = transforms.horizontal_flip(image)
    return _jitter(image, generator) if augment == "resized-crop-color" else image


def _draw_shifts(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Top and left (2, count, 1) in the padded image, and whether to flip (count, 1)."""
    shifts = torch.randint(0, 2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
    return shifts, torch.rand(count, 1, generator=generator) < 0.5


def _shift_and_flip(pixels: Tensor, shifts: Tensor, flip: Tensor) -> Tensor:
    batch, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (CROP_PADDING,) * 4)
    top, left = shifts
    rows = top + torch.arange(height)
    columns = left + torch.where(flip, torch.arange(width).flip(0), torch.arange(width))
    return padded[
        torch.arange(batch)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _draw_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of an image."""
    low, high = map(math.log, CROP_RATIO)
    for _ in range(CROP_ATTEMPTS):
        area = height * width * _uniform(*CROP_AREA, generator)
        ratio = float(torch.exp(torch.empty(1).uniform_(low, high, generator=generator)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(torch.randint(0, height - box_height + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - box_width + 1, (1,), generator=generator))
            return top, left, box_height, box_width
    # the centre of an image that is too long
    narrow, wide = CROP_RATIO
    box_width, box_height = width, height
    if width / height < narrow:
        box_height = round(width / narrow)
    elif width / height > wide:
        box_width = round(height * wide)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _jitter(image: Any, generator: torch.Generator) -> Any:
    """Random brightness, contrast, saturation and hue of a Pillow image, in random order."""
    from torchvision.transforms.v2 import functional as transforms

    adjust = (
        transforms.adjust_brightness,
        transforms.adjust_contrast,
        transforms.adjust_saturation,
        transforms.adjust_hue,
    )
    order = torch.randperm(len(adjust), generator=generator).tolist()
    factors = [_uniform(*COLOUR_RANGE, generator) for _ in range(3)] + [_uniform(*HUE_RANGE, generator)]
    for k in order:
        image = adjust[k](image, factors[k])
    return image


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=generator))


def _resized_crops(pixels: Tensor, generator: torch.Generator, augment: Augment) -> Tensor:
    """`random_resized_crop` of square images (B, C, S, S) of one or three channels."""
    from PIL import Image

    batch, channels, _, size = pixels.shape
    result = torch.empty_like(pixels)
    for target, planes in zip(result, pixels, strict=True):
        rows = planes[0] if channels == 1 else planes.permute(1, 2, 0)
        image = random_resized_crop(
            Image.fromarray(rows.contiguous().numpy()), size, "bilinear", augment, generator
        )
        target.copy_(torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1))
    return result
