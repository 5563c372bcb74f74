"""Your own colour and depth frames: predict depth and surface normals from one image."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
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
    OptionError,
    Renamed,
    at_least,
    at_most,
    derive_seed,
    more_than,
    open_image,
    option,
)

from ..classification.archive import read_array
from .geometry import Camera, euclidean, normals, valid_depth
from .task import DOMAINS, DenseStream, DenseTask, Frames
from .taskonomy import select_domains

SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
SUPPORTED = ("depth_zbuffer", "depth_euclidean", "normal")
Array = NDArray[Any]
CHUNK = 16
"""Frames whose labels are computed at once."""


class RGBD(DenseStream):
    """Frames of a depth camera, ``image`` (3, size, size) in [0, 1]; tasks are depth and surface normals.

    ``--env.root`` is a folder with ``NAME-rgb.webp`` (or png, jpg) and a 16-bit ``NAME-depth.png`` for each
    frame, and ``cameras.npz`` with the intrinsic matrix ``K`` (3, 3) in pixels. ``--env.archive`` is an
    ``.npz`` file with ``rgb`` (N, H, W, 3) uint8, ``depth_mm`` (N, H, W) uint16 and ``K``. A depth of 0 marks
    a missing measurement. The centre square of each frame is resized to `image_size`.

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
            "folder with NAME-rgb.webp (or png, jpg) and NAME-depth.png of each frame, and cameras.npz (K)",
        )
        archive: Path | None = option(None, "read this .npz file instead: rgb, depth_mm and K")
        domains: tuple[str, ...] = option(
            ("depth_zbuffer", "normal"),
            "tasks in this order, out of depth_zbuffer, depth_euclidean and normal",
        )
        image_size: int = option(
            128,
            "height and width in pixels to which the centre square of each frame is resized",
            at_least(16),
        )
        depth_scale: float = option(1000.0, "units of the depth images per metre", more_than(0))
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
        self._source = (config.root or config.archive or Path()).expanduser()
        select_domains(config.domains, {name: DOMAINS[name] for name in SUPPORTED})
        self._config, self._seed = config, seed
        self.inputs = {"image": (3, config.image_size, config.image_size)}
        self._fingerprint, self._count = "", 0

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        rgb, depth, intrinsics = self._read()
        digest = hashlib.sha256(f"rgbd/{config.image_size}/{','.join(config.domains)}".encode())
        for array in (rgb, depth, intrinsics):
            digest.update(np.ascontiguousarray(array).data)
        self._fingerprint = digest.hexdigest()
        count = self._count = len(rgb)
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
        stored = _labels(rgb, depth, intrinsics, config)
        return [_task(name, stored, rows, config) for name in config.domains]

    def fingerprint(self) -> str:
        return self._fingerprint

    def content_fingerprint(self) -> str:
        """Of all frames, whichever of them the run's seed draws."""
        return self._fingerprint

    def data_parts(self) -> Mapping[str, DataPart]:
        """All frames as one part."""
        return {"frames": DataPart(self._count, self._fingerprint)}

    def _read(self) -> tuple[Array, Array, Array]:
        """Colour (N, H, W, 3) uint8, depth (N, H, W) uint16, K (3, 3)."""
        source, size = self._source, self._config.image_size
        if source.is_dir():
            rgb, depth = _read_folder(source)
            intrinsics = _load(source / "cameras.npz", ("K",))["K"]
        else:
            rgb, depth, intrinsics = _load(source, ("rgb", "depth_mm", "K")).values()
        is_rgb = rgb.ndim == 4 and rgb.shape[3] == 3 and rgb.dtype == np.uint8
        if not is_rgb or depth.shape != rgb.shape[:3] or depth.dtype != np.uint16:
            raise DataError(
                f"{source}: expected colour (N, H, W, 3) uint8 and depth (N, H, W) "
                f"uint16; they are {rgb.shape} {rgb.dtype} and {depth.shape} {depth.dtype}"
            )
        is_matrix = intrinsics.shape == (3, 3) and np.isfinite(intrinsics).all()
        if not is_matrix or min(intrinsics[0, 0], intrinsics[1, 1]) <= 0:
            raise DataError(f"{source}: K must be a matrix of intrinsics in pixels, (3, 3)")
        if min(rgb.shape[1:3]) < size:
            raise DataError(
                f"{source}: frames are {rgb.shape[1]} x {rgb.shape[2]} "
                f"pixels, smaller than --env.image-size {size}"
            )
        return rgb, depth, intrinsics


def _task(name: str, stored: dict[str, Tensor], rows: dict[str, Tensor], config: RGBD.Config) -> DenseTask:
    mask = stored["normal mask" if name == "normal" else "depth mask"]
    frames = Frames({"rgb": stored["rgb"], name: stored[name], "mask": mask}, rows)
    return DenseTask(DOMAINS[name], frames, config.decoder_width, "area", config.max_depth)


def _labels(rgb: Array, depth: Array, intrinsics: Array, config: RGBD.Config) -> dict[str, Tensor]:
    """All frames at `image_size`, as `Frames` stores them; labels are computed at the original size."""
    height, width = depth.shape[1:]
    side, size = min(height, width), config.image_size
    top, left = (height - side) // 2, (width - side) // 2
    camera = Camera(intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]).cropped(top, left)
    centres = ((torch.arange(size) + 0.5) * side / size).long()
    chunks: dict[str, list[Tensor]] = {}
    for first in range(0, len(rgb), CHUNK):
        square = (slice(first, first + CHUNK), slice(top, top + side), slice(left, left + side))
        metres = torch.from_numpy(depth[square].astype(np.float32)) / config.depth_scale
        normal, normal_valid = normals(metres, camera, config.normal_window)
        distance = euclidean(metres, camera)
        labels = {
            "depth_zbuffer": _to_uint16(metres / config.max_depth),
            "depth_euclidean": _to_uint16(distance / config.max_depth),
            "normal": ((normal + 1) * 127.5).round().to(torch.uint8),
            "depth mask": (valid_depth(metres) & (distance <= config.max_depth))[:, None].to(torch.uint8),
            "normal mask": normal_valid[:, None].to(torch.uint8),
        }
        pixels = torch.from_numpy(rgb[square]).permute(0, 3, 1, 2).float()
        resized = functional.interpolate(pixels, size=(size, size), mode="area").round().to(torch.uint8)
        chunks.setdefault("rgb", []).append(resized)
        for name, values in labels.items():
            chunks.setdefault(name, []).append(values[..., centres[:, None], centres])
    return {name: torch.cat(values) for name, values in chunks.items()}


def _to_uint16(values: Tensor) -> Tensor:
    """(B, H, W), clamped to [0, 1], as (B, 1, H, W) over the full 16-bit range."""
    return (values.clamp(0, 1) * 65535).round().to(torch.int32).to(torch.uint16)[:, None]


def _load(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Arrays of an ``.npz`` file, by name."""
    if not path.is_file():
        raise DataError(f"no file or folder {path} (--env.root or --env.archive)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive.files]:
                raise DataError(
                    f"{path}: missing keys {', '.join(missing)}; it "
                    f"has {', '.join(archive.files) or 'no arrays'}"
                )
            return {name: read_array(archive, name, path) for name in names}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error


def _read_folder(folder: Path) -> tuple[Array, Array]:
    """All frames, sorted by name."""
    colours = {
        path.stem.removesuffix("-rgb"): path
        for path in folder.iterdir()
        if path.stem.endswith("-rgb") and path.suffix in SUFFIXES and path.is_file()
    }
    depths = {path.stem.removesuffix("-depth"): path for path in folder.glob("*-depth.png") if path.is_file()}
    if not colours:
        raise DataError(f"{folder} has no frames; expected NAME-rgb.webp (or png, jpg) and NAME-depth.png")
    if unpaired := sorted(colours.keys() ^ depths.keys()):
        raise DataError(
            f"{folder}: {len(unpaired)} frames lack the colour or depth image, such as {unpaired[0]}"
        )
    names = sorted(colours)
    frames = [
        (_read_image(colours[name], is_16_bit=False), _read_image(depths[name], is_16_bit=True))
        for name in names
    ]
    expected = frames[0][0].shape
    for name, (colour, depth) in zip(names, frames, strict=True):
        if colour.shape != expected or depth.shape != colour.shape[:2]:
            raise DataError(
                f"{folder}: frame {name} has colour {colour.shape} "
                f"and depth {depth.shape}, expected {expected}"
            )
    return np.stack([colour for colour, _ in frames]), np.stack([depth for _, depth in frames])


def _read_image(path: Path, is_16_bit: bool) -> Array:
    from PIL import Image  # not needed with an archive

    try:
        with open_image(path) as image:
            if image.mode.startswith("I") != is_16_bit:
                expected = "a 16-bit grey image" if is_16_bit else "8 bits per channel"
                raise DataError(f"{path} has mode {image.mode}; expected {expected}")
            pixels = np.asarray(image if is_16_bit else image.convert("RGB"))
            return pixels.astype(np.uint16 if is_16_bit else np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
