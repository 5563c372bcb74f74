"""Values of habitat's sensors as inputs of networks; imports neither habitat nor torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .spec import GOAL

Array = NDArray[Any]


def sensor_input(name: str, value: Array, *, polar: bool, tile: int | None, mask_images: bool) -> Array:
    """The value of a sensor as an input: images (C, H, W), vectors (C,), and ``goal`` (see `Navigation`).

    Args:
        name: of the input.
        value: of the sensor: an image (H, W, C) or a vector.
        polar: whether the sensor of the goal gives distance and angle, and not coordinates.
        tile: side of the planes that repeat the goal's values; None for a vector.
        mask_images: whether images are zeroed.
    """
    if name == GOAL:
        distance, angle = polar_goal(value, polar)
        vector = np.array([math.cos(angle), math.sin(angle), distance], np.float32)
        return vector if tile is None else np.tile(vector[:, None, None], (1, tile, tile))
    if value.ndim != 3:
        return value.astype(np.float32)
    dtype = np.uint8 if value.dtype == np.uint8 else np.float32
    image = np.ascontiguousarray(value.transpose(2, 0, 1), dtype)
    return np.zeros_like(image) if mask_images else image


def polar_goal(value: Array, polar: bool) -> tuple[float, float]:
    """Distance of the goal in metres, and its angle in radians to the left."""
    if polar:
        return float(value[0]), float(value[1])
    ahead, right = map(float, value)
    return math.hypot(ahead, right), math.atan2(-right, ahead)
