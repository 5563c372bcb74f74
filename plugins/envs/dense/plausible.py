"""What is implausible about depth and intrinsics: wrong units, intrinsics of images of another size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .geometry import Camera
from .rgbd_files import Array, Read

MAX_BEYOND = 0.5
"""Fraction of the measured pixels beyond the limit from which on the units are doubted."""
MIN_DEPTH = 0.1
"""A median depth below this, in metres, is nearer than depth cameras measure."""
SAMPLED = 16
"""Frames that are looked at, evenly spaced."""
FOCAL_LENGTHS = (0.2, 5.0)
"""Usual focal lengths, in widths of the image: fields of view of 136 to 11 degrees."""


def cameras_of_depth(read: Read) -> list[Camera]:
    """The cameras of the depth maps: one, or one for each frame."""
    matrices = read.intrinsics.reshape(-1, 3, 3)
    if len(matrices) > 1 and (matrices == matrices[0]).all():
        matrices = matrices[:1]
    cameras = [Camera(k[0, 0], k[1, 1], k[0, 2], k[1, 2]) for k in matrices]
    factor = read.depth.shape[2] / read.rgb.shape[2]
    return cameras if read.of_depth or factor == 1 else [camera.resized(factor) for camera in cameras]


def implausible(read: Read, units_per_metre: float, max_depth: float) -> Iterator[str]:
    """A sentence for everything that is implausible, with the option to type.

    Args:
        read: frames.
        units_per_metre: of 16-bit depth.
        max_depth: in metres.
    """
    height, width = read.depth.shape[1:]
    camera = cameras_of_depth(read)[0]
    if not (0 < camera.cx < width and 0 < camera.cy < height):
        yield (
            f"the principal point ({camera.cx:.1f}, {camera.cy:.1f}) is outside of the {width} x {height} "
            "depth maps: K seems to be of images of another size; pass --env.intrinsics FX FY CX CY"
        )
    elif not FOCAL_LENGTHS[0] * width < camera.fx < FOCAL_LENGTHS[1] * width:
        yield (
            f"a focal length of {camera.fx:.4g} pixels is implausible for images of {width} x {height}; "
            "pass --env.intrinsics FX FY CX CY in pixels"
        )
    yield from _units(read, units_per_metre, max_depth)


def _units(read: Read, units_per_metre: float, max_depth: float) -> Iterator[str]:
    is_float = read.depth.dtype.kind == "f"
    sampled = read.depth[:: max(1, len(read.depth) // SAMPLED)].astype(np.float64)
    metres: Array = sampled if is_float else sampled / units_per_metre
    measured = metres[np.isfinite(metres) & (metres > 0)]
    stated = read.units_per_metre
    if stated is not None and not is_float and stated != units_per_metre:
        yield (
            f"depth images of this layout have {stated:g} units per metre, not {units_per_metre:g}; "
            f"pass --env.depth-scale {stated:g}"
        )
    if not len(measured):
        return  # the task refuses it
    beyond, median = float((measured > max_depth).mean()), float(np.median(measured))
    if beyond >= MAX_BEYOND:
        far = float(np.quantile(measured, 0.99))
        remedy = (
            "floats are metres"
            if is_float
            else f"now {units_per_metre:g} per metre; TUM: --env.depth-scale 5000"
        )
        yield (
            f"{100 * beyond:.0f} % of the measured pixels are beyond {max_depth:g} m and do not count "
            f"(median {median:.3g} m); check the units ({remedy}), or pass --env.max-depth {far:.3g}"
        )
    elif median < MIN_DEPTH:
        yield (
            f"the median depth is {median:.3g} m, nearer than depth cameras measure; check the units: "
            f"--env.depth-scale, now {units_per_metre:g} per metre"
        )
