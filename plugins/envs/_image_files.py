"""Image files, and Pillow images, as 8-bit RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sidetune_core.api import InputError, open_image

from ._image_squares import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Of image files, where a folder is searched for them."""


def read_image(path: Path, where: str, rotates: bool) -> Pixels:
    """The pixels of a file.

    Raises:
        InputError: it is missing, damaged, or no 8-bit image.
    """
    return np.array(read_rgb(path, where, rotates))


def read_rgb(path: Path, where: str, rotates: bool) -> Any:
    """A file as a Pillow image of mode RGB: the first frame, upright if `rotates`, without transparency.

    Raises:
        InputError: it is missing, damaged, or no 8-bit image.
    """
    try:
        with open_image(path) as image:
            return to_rgb(image, where, rotates)
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # what the decoders of Pillow raise for a damaged file is not documented
        raise InputError(f"{where} cannot be read as an image: {reason_of(error)}") from error


def to_rgb(image: Any, where: str, rotates: bool) -> Any:
    """A Pillow image in mode RGB.

    Raises:
        InputError: it has no pixels, or more than 8 bits per channel.
    """
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(f"{where} has no pixels")
    if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip these silently
        raise InputError(
            f"{where} has more than 8 bits per channel (mode {image.mode}); expected an 8-bit image"
        )
    upright = ImageOps.exif_transpose(image) if rotates else image
    return upright.convert("RGB")


def ignore_warnings() -> None:
    """Ignore Pillow's warnings, which are about metadata and sizes of single files, from here on."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def reason_of(error: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
