"""Cache of decoded image files: arrays that later runs memory-map."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import DataError, open_image

Array = NDArray[Any]
Format = Literal["colour", "uint8", "uint16", "labels", "vector", "mask"]
"""How to read a file: as a colour image, a non-photographic 8-bit image, a 16-bit image, a label image, an
array of numbers, or the validity mask of a 16-bit depth image."""

INVALID_DEPTH = 65000
"""Values from here on, in a 16-bit depth image, mark missing measurements."""
MASK_WINDOW = 5
"""A pixel is valid if all depths in a window of this many pixels are."""
MAX_WORKERS = 16
UNFINISHED_SECONDS = 3600.0
"""Age of a temporary file from which on the process that was writing it must have been killed."""
VERSION = "1"
HEADERS = Lock()
"""Held while the header of a ``.npy`` file is read: `ast.literal_eval`, by which NumPy parses it, may fail in
Python 3.11 where threads call it at the same time ("AST constructor recursion depth mismatch")."""


class UnusableFile(Exception):
    """A file that cannot be used; the message completes the sentence "the file ..."."""


@attrs.frozen(eq=False)
class Decoded:
    """The decoded files, (N, ...), and the reasons why some of them are unusable, by index."""

    values: Tensor
    faults: Mapping[int, str]
    key: str
    """Digest of the files' paths, sizes and dates and of how they were read."""
    files: str
    """Digest of the files' names (domain, building, view) and sizes: equal for a copy of them elsewhere."""


def decode(paths: Sequence[Path], format: Format, size: int, channels: int, cache: Path) -> Decoded:
    """Decode image files in order, or map the arrays of an earlier run.

    Colour images are resized to `size` by averaging. All others are sampled at the centre of each cell, since
    averaging labels, or depths across an edge, is meaningless. The mask is 1 where the 5 x 5 window around
    that pixel has no missing depth.

    Args:
        paths: the files.
        format: see `Format`.
        size: height and width of the result; 0 for vectors.
        channels: of the result: (N, channels, size, size) uint8 or uint16, (N, size, size) uint8 for labels,
            (N, channels) float32 for vectors.
        cache: folder of the arrays.

    Raises:
        DataError: the folder cannot be written.
    """
    shape = {"labels": (size, size), "vector": (channels,)}.get(format, (channels, size, size))
    dtype = {"uint16": np.uint16, "vector": np.float32}.get(format, np.uint8)
    try:
        key, names_and_sizes = _digests(paths, f"{VERSION}/{format}/{size}/{channels}")
        array, notes = cache / f"{key}.npy", cache / f"{key}.json"
        if not (array.is_file() and notes.is_file()):
            cache.mkdir(parents=True, exist_ok=True)

            def read(path: Path) -> tuple[Array, str]:
                return _read(path, format, size, channels)

            _fill(array, notes, paths, (len(paths), *shape), dtype, read)
        # copy-on-write: never written, but torch warns about read-only arrays
        values = torch.from_numpy(np.load(array, mmap_mode="c"))
        faults = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot keep decoded images in {cache}: {error}. Choose another folder with --env.cache-dir"
        ) from error
    return Decoded(values, {int(index): str(fault) for index, fault in faults.items()}, key, names_and_sizes)


def _fill(
    array: Path,
    notes: Path,
    paths: Sequence[Path],
    shape: tuple[int, ...],
    dtype: type[Any],
    read: Callable[[Path], tuple[Array, str]],
) -> None:
    """Write the array and the faults under temporary names, and rename them when complete."""
    for left in array.parent.glob(f".{array.name}.*"):  # by a process that was killed long ago
        if time.time() - left.lstat().st_mtime > UNFINISHED_SECONDS:
            left.unlink(missing_ok=True)
    temporary = array.with_name(f".{array.name}.{secrets.token_hex(4)}")
    try:
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        faults: dict[int, str] = {}
        sizes: dict[int, str] = {}

        def read_into(index: int) -> None:
            try:
                values[index], sizes[index] = read(paths[index])
            except UnusableFile as error:
                faults[index] = str(error)

        # threads suffice: Pillow releases the GIL while decoding
        with ThreadPoolExecutor(max_workers=min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
            list(pool.map(read_into, range(len(paths))))
        if sizes:
            usual = Counter(sizes.values()).most_common(1)[0][0]
            for index, size in sizes.items():
                if size != usual:
                    faults[index] = f"is {size}, the others {usual}"
        values.flush()
        os.replace(temporary, array)
        by_index = {str(index): faults[index] for index in sorted(faults)}
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(by_index, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, notes)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, format: Format, size: int, channels: int) -> tuple[Array, str]:
    """One decoded file, and its original size for messages.

    Raises:
        UnusableFile: it is damaged or has the wrong format.
    """
    if format == "vector":
        return _read_vector(path, channels)
    from PIL import Image  # not needed for vectors

    try:
        with open_image(path) as file:
            image: Image.Image = file
            image.load()
            is_16_bit = image.mode.startswith("I")
            expects_16_bit = format in ("uint16", "mask")
            if is_16_bit != expects_16_bit:
                bits, expected = ("16", "8") if is_16_bit else ("8", "16")
                raise UnusableFile(f"has {bits} bits per channel, expected {expected}")
            if format == "colour" or (format == "uint8" and image.mode == "P"):
                image = image.convert("RGB")
            width, height = image.size
            if width != height or height < size:
                raise UnusableFile(f"is {height} x {width}, expected a square of {size} x {size} or more")
            if format == "colour":
                pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX))
                return pixels.transpose(2, 0, 1), f"{height} x {width}"
            pixels = np.asarray(image)
    except UnusableFile:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnusableFile(f"cannot be read as an image ({error})") from error
    centres = ((np.arange(size) + 0.5) * height / size).astype(np.int64)
    if format == "mask":
        missing = torch.from_numpy((pixels >= INVALID_DEPTH).astype(np.float32))[None]
        near_missing = functional.max_pool2d(missing, MASK_WINDOW, stride=1, padding=MASK_WINDOW // 2)
        pixels = near_missing[0].numpy() == 0
    sampled = pixels[centres][:, centres]
    if format == "labels":
        if sampled.ndim != 2:
            raise UnusableFile(f"has {sampled.shape[2]} channels, expected one channel of labels")
        return sampled, f"{height} x {width}"
    planes = sampled[None] if sampled.ndim == 2 else sampled.transpose(2, 0, 1)
    if len(planes) < channels:
        raise UnusableFile(f"has {len(planes)} channels, expected {channels}")
    return planes[:channels], f"{height} x {width}"


def _read_vector(path: Path, channels: int) -> tuple[Array, str]:
    try:
        with HEADERS:
            values = np.load(path, mmap_mode="r", allow_pickle=False)  # a wrong length is no allocation
    except (OSError, ValueError, EOFError) as error:
        raise UnusableFile(f"cannot be read as an array ({error})") from error
    is_numeric = isinstance(values, np.ndarray) and values.dtype.kind in "fiu"
    if not is_numeric or values.size != channels or not np.isfinite(values).all():
        raise UnusableFile(f"is not an array of {channels} finite numbers")
    return values.reshape(channels).astype(np.float32), f"{channels}"


def _digests(paths: Sequence[Path], reading: str) -> tuple[str, str]:
    """`Decoded.key` and `Decoded.files`."""
    key, files = hashlib.sha256(reading.encode()), hashlib.sha256()
    for path in paths:
        stat = path.stat()
        key.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        files.update(f"{'/'.join(path.parts[-3:])}\0{stat.st_size}\n".encode())
    return key.hexdigest()[:40], files.hexdigest()
