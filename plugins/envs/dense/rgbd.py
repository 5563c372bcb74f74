"""Your own colour and depth frames: depth and surface normals from one image."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import (
    DataError,
    OptionError,
    TaskStream,
    at_least,
    at_most,
    derive_seed,
    more_than,
    option,
)

from .geometry import Camera, euclidean, measured, normals
from .task import DOMAINS, DenseTask, Frames

SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
TASKS = ("depth_zbuffer", "depth_euclidean", "normal")
Array = NDArray[Any]
CHUNK = 16
"""Frames whose labels are made at once."""


class RGBD(TaskStream):
    """Frames of a depth camera, ``image`` (3, size, size) in [0, 1]; tasks are depth and surface normals, counted where they are known.

    ``--env.frames`` is a folder with ``NAME-rgb.webp`` (or png, jpg) and ``NAME-depth.png`` of 16 bits for each frame, and ``cameras.npz``
    with the intrinsic matrix ``K`` (3, 3) in pixels; or an ``.npz`` file with ``rgb`` (N, H, W, 3) uint8, ``depth_mm`` (N, H, W) uint16 and
    ``K``. A depth of 0 means that nothing was measured. The middle square of each frame is brought to `size`.

    Depth goes linearly from -1 (0) to 1 (`farthest`), and what is beyond is not counted. Normals face the camera, x to the right and y
    down; they come from a plane fitted to the inverse depth around each pixel (see `_dense_labels.normals`). The last frames are the test
    split, since frames beside each other in a video show the same things.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        frames: Path | None = option(
            None,
            "a folder with NAME-rgb.webp (or png, jpg), NAME-depth.png and cameras.npz (K), or an .npz file with rgb, depth_mm and K",
        )
        domains: str = option(
            "depth_zbuffer,normal", "tasks in their order, out of depth_zbuffer, depth_euclidean and normal"
        )
        size: int = option(128, "height and width that frames are brought to", at_least(16))
        units: float = option(1000.0, "what one metre is in depth images", more_than(0))
        farthest: float = option(
            5.0, "depth in metres that is the end of the scale; what is farther is not counted", more_than(0)
        )
        window: int = option(
            2,
            "pixels around one, at the frames' own size, that its normal is fitted to",
            at_least(1),
            at_most(10),
        )
        test_fraction: float = option(
            0.25, "share of the frames that is tested on: the last ones", more_than(0), at_most(0.9)
        )
        images: int | None = option(
            None,
            "only so many training frames, drawn by the run's seed; more of them contain fewer",
            at_least(1),
        )
        decoder: int = option(
            256, "channels of the widest layers of the tasks' decoders; the original has 1024", at_least(8)
        )

    recipe = {"batch_size": 16, "steps": 200, "lr": 1e-3}
    default_components = {"base": {"name": "taskonomy", "width": 10, "weights": "packaged"}, "side": "fcn5"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.frames is None:
            raise OptionError("env 'rgbd' needs frames: give --env.frames DIR or --env.frames FILE.npz")
        self._source = config.frames.expanduser()
        self._names = [name.strip() for name in config.domains.split(",")]
        if not set(self._names) <= set(TASKS) or len(set(self._names)) < len(self._names):
            raise OptionError(f"--env.domains {config.domains}: name some of {', '.join(TASKS)}, each once")
        self._config, self._seed = config, seed
        self.inputs = {"image": (3, config.size, config.size)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        rgb, depth, intrinsics = self._read()
        digest = hashlib.sha256(f"rgbd/{config.size}/{config.domains}".encode())
        for array in (rgb, depth, intrinsics):
            digest.update(np.ascontiguousarray(array).data)
        self._fingerprint = digest.hexdigest()
        count = len(rgb)
        first = count - max(1, round(config.test_fraction * count))
        if first < 1:
            raise DataError(
                f"env 'rgbd' has {count} frames; expected two or more, to train on some and test on others"
            )
        order = torch.randperm(
            first, generator=torch.Generator().manual_seed(derive_seed(self._seed, "images"))
        )
        rows = {"train": order[: config.images].sort().values, "test": torch.arange(first, count)}
        stored = _labels(rgb, depth, intrinsics, config)
        return [_task(name, stored, rows, config) for name in self._names]

    def fingerprint(self) -> str:
        return self._fingerprint

    def _read(self) -> tuple[Array, Array, Array]:
        """Colours (N, H, W, 3) uint8, depths (N, H, W) uint16, K (3, 3)."""
        source, size = self._source, self._config.size
        if source.is_dir():
            rgb, depth = _read_folder(source)
            intrinsics = _load(source / "cameras.npz", ("K",))["K"]
        else:
            rgb, depth, intrinsics = _load(source, ("rgb", "depth_mm", "K")).values()
        if (
            rgb.ndim != 4
            or rgb.shape[3] != 3
            or rgb.dtype != np.uint8
            or depth.shape != rgb.shape[:3]
            or depth.dtype != np.uint16
        ):
            raise DataError(
                f"{source}: expected colours (N, H, W, 3) uint8 and depths (N, H, W) uint16; they are {rgb.shape} {rgb.dtype} and "
                f"{depth.shape} {depth.dtype}"
            )
        if (
            intrinsics.shape != (3, 3)
            or not np.isfinite(intrinsics).all()
            or intrinsics[0, 0] <= 0
            or intrinsics[1, 1] <= 0
        ):
            raise DataError(f"{source}: K must be a matrix of intrinsics in pixels, (3, 3)")
        if min(rgb.shape[1:3]) < size:
            raise DataError(
                f"{source}: frames are {rgb.shape[1]} x {rgb.shape[2]} pixels, smaller than --env.size {size}"
            )
        return rgb, depth, intrinsics


def _task(name: str, stored: dict[str, Tensor], rows: dict[str, Tensor], config: RGBD.Config) -> DenseTask:
    own = {
        "rgb": stored["rgb"],
        name: stored[name],
        "mask": stored["normal mask" if name == "normal" else "depth mask"],
    }
    return DenseTask(DOMAINS[name], Frames(own, rows), config.decoder)


def _labels(rgb: Array, depth: Array, intrinsics: Array, config: RGBD.Config) -> dict[str, Tensor]:
    """Every frame at the size of the tasks, as `Frames` stores it: labels are made at the frames' own size and sampled."""
    height, width = depth.shape[1:]
    length, size = min(height, width), config.size
    top, left = (height - length) // 2, (width - length) // 2
    camera = Camera(intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]).cropped(top, left)
    places = ((torch.arange(size) + 0.5) * length / size).long()
    components: dict[str, list[Tensor]] = {}
    for first in range(0, len(rgb), CHUNK):
        square = (slice(first, first + CHUNK), slice(top, top + length), slice(left, left + length))
        metres = torch.from_numpy(depth[square].astype(np.float32)) / config.units
        facing, flat = normals(metres, camera, config.window)
        near, distance = measured(metres), euclidean(metres, camera)
        pixels = torch.from_numpy(rgb[square]).permute(0, 3, 1, 2).float()
        frames = {
            "rgb": functional.interpolate(pixels, size=(size, size), mode="area").round().to(torch.uint8),
            **{
                name: values[..., places[:, None], places]
                for name, values in {
                    "depth_zbuffer": _as_16_bits(metres / config.farthest),
                    "depth_euclidean": _as_16_bits(distance / config.farthest),
                    "normal": ((facing + 1) * 127.5).round().to(torch.uint8),
                    "depth mask": (near & (distance <= config.farthest))[:, None].to(torch.uint8),
                    "normal mask": flat[:, None].to(torch.uint8),
                }.items()
            },
        }
        for name, values in frames.items():
            components.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in components.items()}


def _as_16_bits(shares: Tensor) -> Tensor:
    """(B, H, W) numbers, of which [0, 1] is told apart, as (B, 1, H, W)."""
    return (shares.clamp(0, 1) * 65535).round().to(torch.int32).to(torch.uint16)[:, None]


def _load(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Some arrays of an ``.npz`` file."""
    if not path.is_file():
        raise DataError(f"no file or folder {path} (--env.frames)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if lacking := [name for name in names if name not in archive.files]:
                raise DataError(
                    f"{path} lacks {', '.join(lacking)}; it has {', '.join(archive.files) or 'nothing'}"
                )
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error


def _read_folder(folder: Path) -> tuple[Array, Array]:
    """Every frame, by name."""
    from PIL import Image  # those who have an archive do without

    colours = {
        path.stem.removesuffix("-rgb"): path
        for path in folder.iterdir()
        if path.stem.endswith("-rgb") and path.suffix in SUFFIXES
    }
    depths = {path.stem.removesuffix("-depth"): path for path in folder.glob("*-depth.png")}
    if not colours:
        raise DataError(f"{folder} has no frames; expected NAME-rgb.webp (or png, jpg) and NAME-depth.png")
    if lonely := sorted(colours.keys() ^ depths.keys()):
        raise DataError(f"{folder}: {len(lonely)} frames have no colour or no depth, such as {lonely[0]}")

    def read(path: Path, wide: bool) -> Array:
        try:
            with Image.open(path) as image:
                if image.mode.startswith("I") != wide:
                    raise DataError(
                        f"{path} has mode {image.mode}; expected {'a grey image of 16 bits' if wide else '8 bits a channel'}"
                    )
                return np.asarray(image if wide else image.convert("RGB")).astype(
                    np.uint16 if wide else np.uint8
                )
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            struct.error,
            Image.DecompressionBombError,
        ) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error

    names = sorted(colours)
    frames = [(read(colours[name], False), read(depths[name], True)) for name in names]
    for name, (colour, depth) in zip(names, frames, strict=True):
        if colour.shape != frames[0][0].shape or depth.shape != colour.shape[:2]:
            raise DataError(
                f"{folder}: frame {name} has colour {colour.shape} and depth {depth.shape}, expected {frames[0][0].shape}"
            )
    return np.stack([colour for colour, _ in frames]), np.stack([depth for _, depth in frames])
