"""Depth in OpenEXR files, as Blender, Unreal and simulators write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidetune_core.api import DataError, shorten

INSTALL = "pip install 'sidetune[exr]'"

DEPTH_CHANNEL = "Z"
"""Of the OpenEXR standard; in a layer it is ``LAYER.Z``."""

MAX_PIXELS = 2**27


def read_exr(path: Path) -> NDArray[np.float32]:
    """A depth map (H, W) float32 in metres: the channel ``Z``, or the only one, or one of several that are
    the same.

    Raises:
        DataError: the library is missing, the file is damaged, or no channel is one of depth.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise DataError(f"{path} needs 'OpenEXR': {INSTALL}") from error
    try:
        with OpenEXR.File(str(path), header_only=True) as file:
            first, last = (np.asarray(corner, np.int64) for corner in file.header()["dataWindow"])
        if (pixels := int((last - first + 1).prod())) > MAX_PIXELS:
            raise DataError(f"{path} has {pixels:,} pixels, more than {MAX_PIXELS:,}")
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: np.asarray(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read as an OpenEXR image: {error}") from error
    depth = _depth(channels, path)
    if depth.dtype.kind != "f" or depth.ndim != 2:
        raise DataError(f"{path} has depth {depth.shape} {depth.dtype}; expected (H, W), floats in metres")
    return depth.astype(np.float32)


def _depth(channels: dict[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    """The channel of depth.

    Raises:
        DataError: there is none, or several.
    """
    named = [name for name in channels if name.rpartition(".")[2] == DEPTH_CHANNEL] or list(channels)
    values = [channels[name] for name in named]
    if not values or any(not np.array_equal(values[0], other, equal_nan=True) for other in values[1:]):
        raise DataError(
            f"{path} has the channels {shorten(sorted(channels), 6) or 'none'}; expected depth as "
            f"'{DEPTH_CHANNEL}', or as the only channel"
        )
    return values[0]
