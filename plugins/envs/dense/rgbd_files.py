"""Files of depth cameras: published folder layouts, depth in several formats, and intrinsics."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sidetune_core.api import DataError, open_image, shorten

from ..classification.archive import read_array
from .exr import read_exr

Array = NDArray[Any]
COLOUR_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
DEPTH_SUFFIXES = (".png", ".npy", ".tif", ".tiff", ".exr")
"""Of 16-bit images or arrays in units, and of float ones in metres."""
COLOUR_FOLDERS = ("rgb", "color", "colour", "image", "images")
NAME = re.compile(r"(?P<name>.*?)[-._](?P<kind>rgb|color|colour|depth)")
"""Stems of a colour and a depth image in one folder: ``000-rgb``, or ``frame-0.color`` as in 7-Scenes."""
NYU_NAME = re.compile(r"(?P<kind>rgb|sync_depth)_(?P<name>\d+)")
TUM_SECONDS = 0.02
"""Colour and depth whose time stamps are at most this far apart are a frame."""
EXPECTED = (
    "expected NAME-rgb.png (or webp, jpg) and NAME-depth.png (or npy, tiff, exr) for each frame, or folders "
    "rgb or color, and depth"
)


@attrs.frozen
class Layout:
    """The files of a folder of frames."""

    frames: Sequence[tuple[str, Path, Path]]
    """Name, colour and depth, in order."""
    intrinsics: Path | None = None
    """A text file of the layout."""
    of_depth: bool = False
    """Whether `intrinsics` are those of the depth images, not of the colour images."""
    units_per_metre: float | None = None
    """Of the depth images, where the layout says so."""


@attrs.frozen(eq=False)
class Read:
    """Frames in memory."""

    rgb: Array
    """(N, H, W, 3) uint8"""
    depth: Array
    """(N, h, w) uint16 in units, or float32 in metres."""
    intrinsics: Array
    """(3, 3) or (N, 3, 3), in pixels of the colour images, or of the depth images if `of_depth`."""
    of_depth: bool = False
    units_per_metre: float | None = None


def read_folder(folder: Path, given: Sequence[float]) -> Read:
    """All frames of a folder, in order of their names.

    The layouts are ``NAME-rgb.png`` with ``NAME-depth.png`` (also ``NAME.color.png``, as in 7-Scenes, and
    ``rgb_N.jpg`` with ``sync_depth_N.png``, as of NYU, in subfolders too), folders of equal names
    (``color/1.jpg`` and ``depth/1.png``, as ScanNet's exporter writes), and TUM's ``rgb`` and ``depth`` of
    time stamps.

    Args:
        folder: the folder.
        given: fx, fy, cx, cy of the colour images; empty to read a file.

    Raises:
        DataError: there are no frames, an image is missing, damaged or of another size, or no intrinsics.
    """
    try:
        layout = find_frames(folder)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error}") from error
    intrinsics, of_depth = _intrinsics(folder, layout, given)
    colours, depths = [], []
    for name, colour_path, depth_path in layout.frames:
        colours.append(read_image(colour_path))
        depths.append(read_depth(depth_path))
        colour, depth = colours[-1], depths[-1]
        if (
            colour.shape != colours[0].shape
            or depth.shape != depths[0].shape
            or depth.dtype != depths[0].dtype
        ):
            raise DataError(
                f"{folder}: frame {name} has colour {colour.shape} and depth {depth.shape} {depth.dtype}, "
                f"expected {colours[0].shape} and {depths[0].shape} {depths[0].dtype}, as in the first frame"
            )
    return Read(np.stack(colours), np.stack(depths), intrinsics, of_depth, layout.units_per_metre)


def read_archive(path: Path, given: Sequence[float]) -> Read:
    """Frames of an ``.npz`` file: ``rgb``, ``depth_mm`` (units) or ``depth`` (metres), and ``K``.

    Raises:
        DataError: it is missing, damaged, or lacks a key.
    """
    keys = ("rgb", ("depth_mm", "depth"), "K") if not given else ("rgb", ("depth_mm", "depth"))
    arrays = load_arrays(path, keys)
    depth = arrays["depth_mm"] if "depth_mm" in arrays else arrays["depth"]
    return Read(arrays["rgb"], depth, matrix(given) if given else arrays["K"])


def matrix(given: Sequence[float]) -> Array:
    """K (3, 3) of fx, fy, cx and cy."""
    fx, fy, cx, cy = given
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def find_frames(folder: Path) -> Layout:
    """The frames of a folder in one of the layouts of `read_folder`.

    Raises:
        DataError: there are none, or some lack an image.
        OSError: the folder cannot be listed.
    """
    colour_folder = next((folder / name for name in COLOUR_FOLDERS if (folder / name).is_dir()), None)
    if colour_folder is not None and (folder / "depth").is_dir():
        colours, depths = _by_stem(colour_folder, COLOUR_SUFFIXES), _by_stem(folder / "depth", DEPTH_SUFFIXES)
        if colours and depths and not colours.keys() & depths.keys() and _are_times([*colours, *depths]):
            frames = _nearest_in_time(colours, depths)
            if not frames:
                raise DataError(
                    f"{folder}: no colour and depth image have time stamps within {TUM_SECONDS} s"
                )
            return Layout(frames, units_per_metre=5000.0)
        of_depth = folder / "intrinsic" / "intrinsic_depth.txt"
        has_text = of_depth.is_file()
        return Layout(_paired(folder, colours, depths), of_depth if has_text else None, has_text)
    colours, depths = _by_name(folder.iterdir(), NAME, ("depth",))
    if not colours and not depths:
        files = [*folder.glob("*"), *folder.glob("*/*")]
        colours, depths = _by_name(files, NYU_NAME, ("sync_depth",))
    return Layout(_paired(folder, colours, depths))


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    return {
        path.stem: path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()
    }


def _by_name(
    paths: Iterable[Path], pattern: re.Pattern[str], depth_kinds: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Colour and depth images by frame, whose kind is in their names; frames of subfolders have its name."""
    colours: dict[str, Path] = {}
    depths: dict[str, Path] = {}
    for path in sorted(paths):
        match = pattern.fullmatch(path.stem)
        if match is None or not path.is_file():
            continue
        is_depth = match["kind"] in depth_kinds
        if path.suffix.lower() in (DEPTH_SUFFIXES if is_depth else COLOUR_SUFFIXES):
            name = match["name"] if pattern is NAME else f"{path.parent.name}/{match['name']}"
            (depths if is_depth else colours)[name] = path
    return colours, depths


def _paired(
    folder: Path, colours: Mapping[str, Path], depths: Mapping[str, Path]
) -> list[tuple[str, Path, Path]]:
    """Frames in order of their names, numbers by value where all names are numbers."""
    if not colours:
        raise DataError(f"{folder} has no frames; {EXPECTED}")
    if unpaired := sorted(colours.keys() ^ depths.keys()):
        raise DataError(
            f"{folder}: {len(unpaired)} frames lack the colour or depth image, such as {shorten(unpaired)}"
        )
    names = sorted(colours)
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names):
        names.sort(key=int)
    return [(name, colours[name], depths[name]) for name in names]


def _are_times(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"\d+\.\d+", name) for name in names)


def _nearest_in_time(colours: Mapping[str, Path], depths: Mapping[str, Path]) -> list[tuple[str, Path, Path]]:
    """Each colour image with the depth image of the nearest time stamp."""
    times = sorted((float(name), name) for name in depths)
    frames = []
    for name in sorted(colours, key=float):
        index = bisect_left(times, (float(name), ""))
        near = min(times[max(index - 1, 0) : index + 1], key=lambda pair: abs(pair[0] - float(name)))
        if abs(near[0] - float(name)) <= TUM_SECONDS:
            frames.append((name, colours[name], depths[near[1]]))
    return frames


def _intrinsics(folder: Path, layout: Layout, given: Sequence[float]) -> tuple[Array, bool]:
    """K, and whether it is that of the depth images."""
    if given:
        return matrix(given), False
    if (folder / "cameras.npz").is_file():
        return load_arrays(folder / "cameras.npz", ("K",))["K"], False
    if layout.intrinsics is not None:
        try:
            values = np.loadtxt(layout.intrinsics)[:3, :3]
        except (OSError, ValueError, IndexError, UnicodeDecodeError) as error:
            raise DataError(f"{layout.intrinsics} cannot be read as a matrix: {error}") from error
        return values, layout.of_depth
    tum = " (TUM's default: 525 525 319.5 239.5)" if layout.units_per_metre else ""
    raise DataError(
        f"{folder} has no intrinsics (cameras.npz with K); pass --env.intrinsics FX FY CX CY in pixels{tum}"
    )


def load_arrays(path: Path, names: Sequence[str | tuple[str, ...]]) -> dict[str, Array]:
    """Arrays of an ``.npz`` file by name; of a tuple of names, the first that the file has.

    Raises:
        DataError: it is missing, damaged, or lacks a name.
    """
    if not path.is_file():
        raise DataError(f"no file or folder {path} (--env.root or --env.archive)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            chosen = {
                key: next(
                    (
                        option
                        for option in (key if isinstance(key, tuple) else (key,))
                        if option in archive.files
                    ),
                    "",
                )
                for key in names
            }
            if missing := [
                key if isinstance(key, str) else " or ".join(key) for key in names if not chosen[key]
            ]:
                raise DataError(
                    f"{path}: missing keys {', '.join(missing)}; it "
                    f"has {', '.join(archive.files) or 'no arrays'}"
                )
            return {name: read_array(archive, name, path) for name in chosen.values()}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error


def read_image(path: Path) -> Array:
    """A colour image (H, W, 3) uint8.

    Raises:
        DataError: it is damaged, or has 16 bits per channel.
    """
    from PIL import Image  # not needed with an archive

    try:
        with open_image(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has mode {image.mode}; expected 8 bits per channel")
            return np.asarray(image.convert("RGB")).astype(np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def read_depth(path: Path) -> Array:
    """A depth map (H, W): uint16 in units from a 16-bit image or array, float32 in metres from a float one.

    Raises:
        DataError: it is damaged, or of another type.
    """
    if path.suffix.lower() == ".exr":
        return read_exr(path)
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)  # a wrong length is no allocation
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from error
        if not isinstance(values, np.ndarray):  # a .npz file under another name
            raise DataError(f"{path} is an archive of arrays, expected one array (numpy.save)")
        if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
            values = values.squeeze(0 if values.shape[0] == 1 else -1)
        if values.ndim != 2 or not (values.dtype.kind == "f" or values.dtype == np.uint16):
            raise DataError(
                f"{path} is an array {values.shape} {values.dtype}; expected depth (H, W), floats in metres "
                "or uint16 in units"
            )
        depth: Array = values.astype(np.uint16 if values.dtype == np.uint16 else np.float32)
        return depth
    from PIL import Image  # not needed with an archive

    try:
        with open_image(path) as image:
            if image.mode == "F":
                return np.asarray(image).astype(np.float32)
            if not image.mode.startswith("I"):
                raise DataError(f"{path} has mode {image.mode}; expected a 16-bit grey image")
            return np.asarray(image).astype(np.uint16)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
