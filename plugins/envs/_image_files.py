"""Image files, and Pillow images, as 8-bit RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sidetune_core.api import InputError, open_image

from ._image_squares import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
"""Of image files, where a folder is searched for them."""

ORIENTATION = 0x0112
"""Tag of EXIF data."""


def read_image(path: Path, where: str, rotates: bool) -> Pixels:
    """The pixels of a file, see `read_rgb`."""
    return np.array(read_rgb(path, where, rotates))


def read_rgb(path: Path, where: str, rotates: bool, content: bytes | None = None) -> Any:
    """A file as a Pillow image of mode RGB: the first frame, without transparency.

    Args:
        path: the file.
        where: the file, in messages.
        rotates: whether to rotate it as its EXIF data says.
        content: of the file, if it has been read.

    Raises:
        InputError: it is missing, damaged, or no 8-bit image.
    """
    try:
        with open_image(path, content) as image:
            return to_rgb(image, where, rotates)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # what the decoders of Pillow raise for a damaged file is not documented
        raise unreadable(where, error) from error


def check_header(path: Path, where: str) -> None:
    """Check the format, size and mode that a file states, without decoding it.

    Raises:
        InputError: see `read_rgb`.
    """
    try:
        with open_image(path) as image:
            _check_mode(image, where)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # see `read_rgb`
        raise unreadable(where, error) from error


def unreadable(where: str, error: Exception) -> InputError:
    """The error for an image that cannot be opened or decoded."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{where}: no such file")
    return InputError(f"{where} cannot be read as an image: {_reason(error)}")


def to_rgb(image: Any, where: str, rotates: bool) -> Any:
    """A Pillow image in mode RGB.

    Raises:
        InputError: it has no pixels, or more than 8 bits per channel.
    """
    from PIL import ImageOps

    _check_mode(image, where)
    if rotates and image.getexif().get(ORIENTATION, 1) != 1:  # it copies an image that is upright
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


def ignore_warnings() -> None:
    """Ignore Pillow's warnings from here on: they are about the metadata or the size of a single file."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_mode(image: Any, where: str) -> None:
    if 0 in image.size:
        raise InputError(f"{where} has no pixels")
    if image.mode.startswith(("I", "F")):  # which values are black and white is not stated
        raise InputError(
            f"{where} has more than 8 bits per channel (mode {image.mode}); expected an 8-bit image"
        )


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
