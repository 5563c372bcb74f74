"""Your own colour and depth frames: predict depth and surface normals from one image."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import (
    DataError,
    DataPart,
    DataWarning,
    OptionError,
    Renamed,
    at_least,
    at_most,
    derive_seed,
    more_than,
    option,
)

from .geometry import euclidean, normals, valid_depth
from .plausible import cameras_of_depth, implausible
from .rgbd_files import Read, read_archive, read_folder
from .task import DOMAINS, DenseStream, DenseTask, Frames
from .taskonomy import select_domains

SUPPORTED = ("depth_zbuffer", "depth_euclidean", "normal")
Array = NDArray[Any]
MAX_STRETCH = 0.02
"""By which the aspect ratios of colour images and depth maps may differ, relatively."""
CHUNK = 16
"""Frames whose labels are computed at once."""


class RGBD(DenseStream):
    """Frames of a depth camera, ``image`` (3, size, size) in [0, 1]; tasks are depth and surface normals.

    ``--env.root`` is a folder with ``NAME-rgb.webp`` (or png, jpg) and a 16-bit ``NAME-depth.png`` for each
    frame, and ``cameras.npz`` with the intrinsic matrix ``K`` in pixels of the colour images, (3, 3) or one
    per frame, (N, 3, 3); the layouts of ScanNet, TUM, NYU and 7-Scenes are read too (see
    `rgbd_files.read_folder`). ``--env.archive`` is an ``.npz`` file with ``rgb`` (N, H, W, 3) uint8,
    ``depth_mm`` (N, h, w) uint16 or ``depth`` (floats, in metres), and ``K``. A depth of 0, infinity or NaN
    marks a missing measurement. Depth maps may have another resolution than the colours, of the same field
    of view. The centre square of each frame is resized to `image_size`.

    Depth maps linearly to [-1, 1], from 0 to `max_depth`; pixels beyond are masked. Normals face the camera,
    x to the right and y down; they come from a plane fitted to the inverse depth around each pixel (see
    `geometry.normals`). The last frames are the test split, since adjacent frames of a video show the same
    scene.
    """

    @attrs.frozen
    class Config:
        """Options of the env; exactly one of `root` and `archive` is required."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            "frames": Renamed("root"),
            "size": Renamed("image-size"),
            "units": Renamed("depth-scale"),
            "farthest": Renamed("max-depth"),
            "window": Renamed("normal-window"),
            "images": Renamed("max-images"),
            "decoder": Renamed("decoder-width"),
        }

        root: Path | None = option(
            None,
            "folder with NAME-rgb.webp (or png, jpg) and NAME-depth.png of each frame, and cameras.npz "
            "(K); or in the layout of ScanNet, TUM, NYU or 7-Scenes",
        )
        archive: Path | None = option(
            None, "read this .npz file instead: rgb, depth_mm (or depth, in metres) and K"
        )
        domains: tuple[str, ...] = option(
            ("depth_zbuffer", "normal"),
            "tasks in this order, out of depth_zbuffer, depth_euclidean and normal",
        )
        image_size: int = option(
            128,
            "height and width in pixels to which the centre square of each frame is resized",
            at_least(16),
        )
        intrinsics: tuple[float, ...] = option(
            (), "fx fy cx cy of the colour images in pixels; replaces those of files"
        )
        depth_scale: float = option(
            1000.0,
            "units of 16-bit depth per metre: 1000 for mm, 5000 for TUM; floats are metres",
            more_than(0),
        )
        max_depth: float = option(
            5.0, "largest depth in metres; pixels beyond it are excluded from the loss", more_than(0)
        )
        normal_window: int = option(
            2,
            "radius in pixels, at the original size, of the window to which each normal is fitted",
            at_least(1),
            at_most(10),
        )
        test_fraction: float = option(
            0.25, "fraction of the frames that is the test split: the last ones", more_than(0), at_most(0.9)
        )
        max_images: int | None = option(
            None,
            "limit on training frames, drawn by the run's seed; "
            "a larger limit contains the frames of a smaller one",
            at_least(1),
        )
        decoder_width: int = option(
            256, "channels of the widest decoder layers of each task; 1024 in the original", at_least(8)
        )

    shared_ids = True
    recipe = {"batch_size": 16, "steps": 200, "lr": 1e-3}
    default_components = {"base": {"name": "taskonomy", "width": 10, "weights": "packaged"}, "side": "fcn5"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.root is None and config.archive is None:
            raise OptionError("env 'rgbd' needs frames: pass --env.root DIR or --env.archive FILE.npz")
        if config.root is not None and config.archive is not None:
            raise OptionError(
                "env 'rgbd': --env.root and --env.archive are "
                "mutually exclusive, and both are given; leave one out"
            )
        if config.intrinsics and len(config.intrinsics) != 4:
            raise OptionError(
                f"--env.intrinsics has {len(config.intrinsics)} values; expected four: FX FY CX CY in pixels"
            )
        self._source = (config.root or config.archive or Path()).expanduser()
        select_domains(config.domains, {name: DOMAINS[name] for name in SUPPORTED})
        self._config, self._seed = config, seed
        self.inputs = {"image": (3, config.image_size, config.image_size)}
        self._fingerprint, self._count = "", 0

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        read = self._read()
        digest = hashlib.sha256(f"rgbd/{config.image_size}/{','.join(config.domains)}".encode())
        for array in (read.rgb, read.depth, read.intrinsics):
            digest.update(np.ascontiguousarray(array).data)
        self._fingerprint = digest.hexdigest()
        count = self._count = len(read.rgb)
        first_test = count - max(1, round(config.test_fraction * count))
        if first_test < 1:
            raise DataError(
                f"env 'rgbd': {count} frames in {self._source}; "
                "expected two or more, to hold some out for testing"
            )
        order = torch.randperm(
            first_test, generator=torch.Generator().manual_seed(derive_seed(self._seed, "images"))
        )
        rows = {"train": order[: config.max_images].sort().values, "test": torch.arange(first_test, count)}
        stored = _labels(read, config)
        tasks = [_task(name, stored, rows, config) for name in config.domains]
        self.report_valid(tasks)
        return tasks

    def fingerprint(self) -> str:
        return self._fingerprint

    def content_fingerprint(self) -> str:
        """Of all frames, whichever of them the run's seed draws."""
        return self._fingerprint

    def data_parts(self) -> Mapping[str, DataPart]:
        """All frames as one part."""
        return {"frames": DataPart(self._count, self._fingerprint)}

    def _read(self) -> Read:
        """All frames, checked; what is implausible is warned about."""
        source, given, size = self._source, self._config.intrinsics, self._config.image_size
        read = read_folder(source, given) if source.is_dir() else read_archive(source, given)
        rgb, depth, intrinsics = read.rgb, read.depth, read.intrinsics
        is_rgb = rgb.ndim == 4 and rgb.shape[3] == 3 and rgb.dtype == np.uint8
        is_depth = depth.ndim == 3 and len(depth) == len(rgb)
        if not is_rgb or not is_depth or not (depth.dtype == np.uint16 or depth.dtype.kind == "f"):
            raise DataError(
                f"{source}: expected colour (N, H, W, 3) uint8 and depth (N, h, w) uint16, or floats in "
                f"metres; they are {rgb.shape} {rgb.dtype} and {depth.shape} {depth.dtype}"
            )
        if not len(rgb):
            raise DataError(f"{source} has no frames")
        is_matrix = intrinsics.shape in ((3, 3), (len(rgb), 3, 3)) and np.isfinite(intrinsics).all()
        if not is_matrix or min(intrinsics[..., 0, 0].min(), intrinsics[..., 1, 1].min()) <= 0:
            raise DataError(
                f"{source}: K must be a matrix of intrinsics in pixels, (3, 3), or one for each of the "
                f"{len(rgb)} frames; its shape is {intrinsics.shape}"
            )
        height, width = rgb.shape[1:3]
        if min(height, width) < size:
            raise DataError(
                f"{source}: frames are {height} x {width} pixels, smaller than --env.image-size {size}"
            )
        if abs(depth.shape[1] * width / (depth.shape[2] * height) - 1) > MAX_STRETCH:
            raise DataError(
                f"{source}: depth maps of {depth.shape[1]} x {depth.shape[2]} pixels do not have the aspect "
                f"ratio of the colour images, {height} x {width}; register and crop them first"
            )
        for line in implausible(read, self._config.depth_scale, self._config.max_depth):
            warnings.warn(f"{source}: {line}", DataWarning, stacklevel=2)
        return read


def _task(name: str, stored: dict[str, Tensor], rows: dict[str, Tensor], config: RGBD.Config) -> DenseTask:
    mask = stored["normal mask" if name == "normal" else "depth mask"]
    frames = Frames({"rgb": stored["rgb"], name: stored[name], "mask": mask}, rows)
    return DenseTask(DOMAINS[name], frames, config.decoder_width, "area", config.max_depth)


def _labels(read: Read, config: RGBD.Config) -> dict[str, Tensor]:
    """All frames at `image_size`, as `Frames` stores them; labels are computed at the depth maps' size."""
    size = config.image_size
    (height, width), cameras = read.depth.shape[1:], cameras_of_depth(read)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    centres = ((torch.arange(size) + 0.5) * side / size).long()
    scale = config.depth_scale if read.depth.dtype == np.uint16 else 1.0
    # frames of one camera are computed together
    step = CHUNK if len(cameras) == 1 else 1
    chunks: dict[str, list[Tensor]] = {}
    for first in range(0, len(read.rgb), step):
        camera = cameras[0 if len(cameras) == 1 else first].cropped(top, left)
        square = (slice(first, first + step), slice(top, top + side), slice(left, left + side))
        metres = torch.from_numpy(read.depth[square].astype(np.float32)) / scale
        normal, normal_valid = normals(metres, camera, config.normal_window)
        distance = euclidean(metres, camera)
        known = valid_depth(metres)
        labels = {
            "depth_zbuffer": _to_uint16(torch.where(known, metres, 0.0) / config.max_depth),
            "depth_euclidean": _to_uint16(torch.where(known, distance, 0.0) / config.max_depth),
            "normal": ((normal + 1) * 127.5).round().to(torch.uint8),
            "depth mask": (known & (distance <= config.max_depth))[:, None].to(torch.uint8),
            "normal mask": normal_valid[:, None].to(torch.uint8),
        }
        chunks.setdefault("rgb", []).append(_squares(read.rgb[first : first + step], size))
        for name, values in labels.items():
            chunks.setdefault(name, []).append(values[..., centres[:, None], centres])
    return {name: torch.cat(values) for name, values in chunks.items()}


def _squares(rgb: Array, size: int) -> Tensor:
    """The centre squares of colour images (B, H, W, 3), resized: (B, 3, size, size) uint8."""
    height, width = rgb.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = torch.from_numpy(rgb[:, top : top + side, left : left + side]).permute(0, 3, 1, 2).float()
    return functional.interpolate(pixels, size=(size, size), mode="area").round().to(torch.uint8)


def _to_uint16(values: Tensor) -> Tensor:
    """(B, H, W), clamped to [0, 1], as (B, 1, H, W) over the full 16-bit range."""
    return (values.clamp(0, 1) * 65535).round().to(torch.int32).to(torch.uint16)[:, None]
