"""Images that users give: files, Pillow images, arrays and tensors, made into what tasks were trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidetune_core.api import InputError, Inputs, Preprocessed, TaskCard, TaskHandler

from ._image_files import SUFFIXES, ignore_warnings, read_image, to_rgb, unreadable
from ._image_squares import INTERPOLATIONS, MAX_CROP, MIN_CROP, RESIZES, Pixels, Square, square_by_pillow

EXPECTED = (
    "expected the path of an image, a Pillow image, a uint8 array (H, W, 3), (3, H, W) or (H, W), or one of "
    "floats in [0, 1]"
)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) to float in [0, 1]."""
    return pixels.float() / 255


class ToUnit(nn.Module):
    """Images of bytes (B, C, H, W) to float in [0, 1]; floats stay what they are."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return to_unit(pixels) if pixels.dtype == torch.uint8 else pixels


class ImageHandler(TaskHandler):
    """The inputs of tasks on square colour images, whose card has the value ``resize`` (see `RESIZES`), and
    for ``pillow`` optionally ``interpolation`` and ``crop_fraction`` (see `crop_to_square`).

    Raises:
        ValueError: the card has other inputs, or an unknown value.
    """

    suffixes = SUFFIXES

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        ((self._name, shape),) = card.inputs.items()
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
            raise ValueError(f"its images have the shape {tuple(shape)}, expected (3, S, S)")
        resize = card.values.get("resize")
        if not isinstance(resize, str) or resize not in RESIZES:
            raise ValueError(f"its value 'resize' is {resize!r}, expected {', '.join(RESIZES)}")
        self._size, self._resize = shape[1], RESIZES[resize]
        self._square = _square(card, resize)

    def is_batch(self, value: object) -> bool:
        """Whether raw inputs are several images: a list, or an array or tensor (N, ...), also by name."""
        if isinstance(value, Mapping):
            return self._name in value and self.is_batch(value[self._name])
        return super().is_batch(value) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 4)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        """Images as floats (B, 3, S, S) in [0, 1]; floats of another size are rounded to 8 bits to be
        resized.
        """
        if not len(values):
            raise InputError(f"no images: the batch is empty; {EXPECTED}")
        ignore_warnings()
        images = []
        for index, value in enumerate(values):
            where = describe(value, index, len(values))
            image = self._image(self._unnamed(value, where), where)
            images.append(image.float() if image.is_floating_point() else to_unit(image))
        return Preprocessed(Inputs({self._name: torch.stack(images)}), len(images))

    def transform(self) -> nn.Module:
        return ToUnit()

    def _unnamed(self, value: Any, where: str) -> Any:
        """The image of ``{"image": image}``."""
        if not isinstance(value, Mapping):
            return value
        if [*value] != [self._name]:
            raise InputError(f"{where} has the keys {[*value]}; expected '{self._name}', or the image alone")
        return value[self._name]

    def _image(self, value: Any, where: str) -> Tensor:
        """(3, S, S), uint8 or float in [0, 1]."""
        if isinstance(value, str | os.PathLike):
            return self._fit(read_image(Path(value), where, self._resize.rotates), where)
        if isinstance(value, np.ndarray | Tensor):
            planes = _planes(value, where)
            if not planes.is_floating_point() or planes.shape[1:] == (self._size, self._size):
                return self._fit(_rows(planes), where) if planes.dtype == torch.uint8 else planes
            return self._fit(_rows((planes * 255).round().to(torch.uint8)), where)
        return self._fit(_from_pillow(value, where, self._resize.rotates), where)

    def _fit(self, pixels: Pixels, where: str) -> Tensor:
        height, width = pixels.shape[:2]
        if min(height, width) < self._size and not self._resize.enlarges:
            raise InputError(
                f"{where} has {height} x {width} pixels; expected {self._size} x {self._size} or more"
            )
        return self._square(pixels, self._size)


def _square(card: TaskCard, resize: str) -> Square:
    """How the images of a card are made square; cards of earlier versions have the value ``resize`` only.

    Raises:
        ValueError: a value is unknown.
    """
    interpolation = card.values.get("interpolation", "bilinear")
    crop_fraction = card.values.get("crop_fraction", 1.0)
    if interpolation not in INTERPOLATIONS:
        expected = " or ".join(INTERPOLATIONS)
        raise ValueError(f"its value 'interpolation' is {interpolation!r}, expected {expected}")
    if not isinstance(crop_fraction, int | float) or not MIN_CROP <= crop_fraction <= MAX_CROP:
        raise ValueError(
            f"its value 'crop_fraction' is {crop_fraction!r}, expected a number from {MIN_CROP} to {MAX_CROP}"
        )
    if (interpolation, crop_fraction) == ("bilinear", 1):
        return RESIZES[resize].function
    if resize != "pillow":
        raise ValueError(f"its value 'resize' is {resize!r}, which has no interpolation or crop_fraction")
    return partial(square_by_pillow, interpolation=interpolation, crop_fraction=float(crop_fraction))


def describe(value: object, index: int, count: int) -> str:
    """A raw input in a message: ``input 3 (photo.jpg)``."""
    path = f"{value}" if isinstance(value, str | os.PathLike) else ""
    if count == 1:
        return path or "the input"
    return f"input {index}{f' ({path})' if path else ''}"


def _from_pillow(value: object, where: str, rotates: bool) -> Pixels:
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise InputError(f"{where} is {_kind(value)}; {EXPECTED}")
    try:
        return np.array(to_rgb(value, where, rotates))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # see `read_rgb`
        raise unreadable(where, error) from error


def _planes(value: NDArray[Any] | Tensor, where: str) -> Tensor:
    """An array as (3, H, W), uint8 or float32 in [0, 1]."""
    kind, is_array = str(value.dtype).removeprefix("torch."), isinstance(value, np.ndarray)
    image = _as_tensor(value, where)
    shape = tuple(image.shape)
    if image.ndim == 4:
        raise InputError(f"{where} has shape {shape}: give a batch as it is, not within a list")
    if image.ndim == 2:
        image = image[None]
    elif image.ndim == 3 and is_array and shape[2] in (1, 3, 4):
        image = image.permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or 0 in shape:
        order = "(H, W, 3), (3, H, W) or (H, W)" if is_array else "(3, H, W) or (H, W)"
        raise InputError(f"{where} has shape {shape}; expected {order}")
    if image.dtype != torch.uint8:
        if not image.is_floating_point():
            raise InputError(f"{where} has type {kind}; expected uint8 of 0 to 255, or floats in [0, 1]")
        image = image.float()
        _check_range(image, where)
    return image.expand(3, -1, -1) if len(image) == 1 else image[:3]  # without transparency, as in files


def _as_tensor(value: NDArray[Any] | Tensor, where: str) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_complex() or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{where} is no plain tensor of numbers; {EXPECTED}")
        return value.detach().cpu()
    if value.dtype.kind not in "uif":
        raise InputError(f"{where} has type {value.dtype}; expected uint8 of 0 to 255, or floats in [0, 1]")
    if value.dtype.kind == "f":  # also the types and byte orders that PyTorch does not have
        return torch.from_numpy(np.ascontiguousarray(value, np.float32))
    if value.dtype == np.uint8:
        return torch.from_numpy(np.array(value))
    return torch.from_numpy(np.ascontiguousarray(value.astype(np.int64)))


def _check_range(image: Tensor, where: str) -> None:
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{where} has values that are NaN or infinite; expected floats in [0, 1]")
    if low < 0:
        raise InputError(
            f"{where} has values down to {_bound(low)}; expected floats in [0, 1]: the network subtracts "
            "means itself, so give images that are not standardised"
        )
    if high > 1:
        raise InputError(
            f"{where} has values up to {_bound(high)}; expected floats in [0, 1]: divide by 255, or give "
            "uint8"
        )


def _bound(value: float) -> str:
    """A value outside of [0, 1], with enough digits to tell it from 1."""
    return next(text for digits in range(4, 18) if float(text := f"{value:.{digits}g}") not in (0, 1))


def _rows(planes: Tensor) -> Pixels:
    """(3, H, W) as (H, W, 3)."""
    return planes.permute(1, 2, 0).contiguous().numpy()


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, list | tuple):
        return "a list within a list"
    return f"a value of type {type(value).__name__}"
