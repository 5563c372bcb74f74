"""Image files decoded once, into arrays that later runs map into memory."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import DataError

Array = NDArray[Any]
What = Literal["colour", "uint8", "uint16", "labels", "vector", "mask"]
"""How a file is read: a colour image; an image of 8 bits that is no photograph, of 16 bits, or of labels; an array of numbers; or the valid
pixels of a depth image of 16 bits."""

FARTHEST = 65000
"""Depths from here on, in a depth image of 16 bits, mean that nothing was measured."""
VERSION = "1"


class Unfit(Exception):
    """A file that cannot be used; the message says why."""


@attrs.frozen(eq=False)
class Decoded:
    """The array of some files, (N, ...), and why some of them are of no use, by place."""

    values: Tensor
    faults: Mapping[int, str]
    key: str
    """Another one for other files, or another way to read them."""


def decode(paths: Sequence[Path], what: What, size: int, channels: int, cache: Path) -> Decoded:
    """Read images in order, or map what an earlier run has read.

    Photographs are brought to `size` by averaging; everything else by taking the pixel in the middle of each cell, since a mean of labels
    or of depths over an edge means nothing. The mask is 1 where no pixel of the 5 x 5 around that one lacks a depth.

    Args:
        paths: the files.
        what: see `What`.
        size: height and width to bring them to; 0 for vectors.
        channels: of what is returned: (N, channels, size, size) uint8 or uint16, (N, size, size) uint8 for labels, (N, channels) float32
            for vectors.
        cache: folder that arrays are kept in, by names, sizes and dates of the files.

    Raises:
        DataError: the folder cannot be written.
    """
    shape = {"labels": (size, size), "vector": (channels,)}.get(what, (channels, size, size))
    kind = {"uint16": np.uint16, "vector": np.float32}.get(what, np.uint8)
    try:
        key = _key(paths, f"{VERSION}/{what}/{size}/{channels}")
        array, notes = cache / f"{key}.npy", cache / f"{key}.json"
        if not (array.is_file() and notes.is_file()):
            cache.mkdir(parents=True, exist_ok=True)
            _fill(
                array,
                notes,
                paths,
                (len(paths), *shape),
                kind,
                lambda path: _read(path, what, size, channels),
            )
        values = torch.from_numpy(
            np.load(array, mmap_mode="c")
        )  # "c": never written, though torch wants it writable
        faults = {
            int(place): str(why) for place, why in json.loads(notes.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot keep decoded images in {cache}: {error}. Give another folder with --env.cache"
        ) from error
    return Decoded(values, faults, key)


def _fill(
    array: Path,
    notes: Path,
    paths: Sequence[Path],
    shape: tuple[int, ...],
    kind: type[Any],
    read: Callable[[Path], tuple[Array, str]],
) -> None:
    """Write the array and the faults, under temporary names until they are whole."""
    temporary = array.with_name(f".{array.name}.{secrets.token_hex(4)}")
    try:
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
        faults: dict[int, str] = {}
        sizes: dict[int, str] = {}

        def one(place: int) -> None:
            try:
                values[place], sizes[place] = read(paths[place])
            except Unfit as error:
                faults[place] = str(error)

        with ThreadPoolExecutor(
            max_workers=min(16, os.cpu_count() or 1)
        ) as pool:  # decoding runs outside Python's lock
            list(pool.map(one, range(len(paths))))
        if sizes:
            usual = Counter(sizes.values()).most_common(1)[0][0]
            faults |= {
                place: f"is {found}, the others {usual}" for place, found in sizes.items() if found != usual
            }
        values.flush()
        os.replace(temporary, array)
        temporary.write_text(
            json.dumps({str(place): faults[place] for place in sorted(faults)}), encoding="utf-8"
        )
        os.replace(temporary, notes)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, what: What, size: int, channels: int) -> tuple[Array, str]:
    """One file, and its size in words.

    Raises:
        Unfit: it is damaged, or not what it should be.
    """
    if what == "vector":
        return _read_vector(path, channels)
    from PIL import Image  # nothing else here needs it

    try:
        with Image.open(path) as file:
            image: Image.Image = file
            image.load()
            wide = image.mode.startswith("I")
            if wide != (what in ("uint16", "mask")):
                raise Unfit(f"has {'16' if wide else '8'} bits a channel, expected {'8' if wide else '16'}")
            if what == "colour" or (what == "uint8" and image.mode == "P"):
                image = image.convert("RGB")
            width, height = image.size
            if width != height or height < size:
                raise Unfit(f"is {height} x {width}, expected a square of {size} x {size} or more")
            if what == "colour":
                pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX))
                return pixels.transpose(2, 0, 1), f"{height} x {width}"
            pixels = np.asarray(image)
    except Unfit:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise Unfit(f"cannot be read as an image ({error})") from error
    places = ((np.arange(size) + 0.5) * height / size).astype(np.int64)
    if what == "mask":
        lacking = torch.from_numpy((pixels >= FARTHEST).astype(np.float32))
        pixels = functional.max_pool2d(lacking[None], 5, stride=1, padding=2)[0].numpy() == 0
    cells = pixels[places][:, places]
    if what == "labels":
        if cells.ndim != 2:
            raise Unfit(f"has {cells.shape[2]} channels, expected one of labels")
        return cells, f"{height} x {width}"
    planes = cells[None] if cells.ndim == 2 else cells.transpose(2, 0, 1)
    if len(planes) < channels:
        raise Unfit(f"has {len(planes)} channels, expected {channels}")
    return planes[:channels], f"{height} x {width}"


def _read_vector(path: Path, channels: int) -> tuple[Array, str]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unfit(f"cannot be read as an array ({error})") from error
    if (
        not isinstance(values, np.ndarray)
        or values.size != channels
        or values.dtype.kind not in "fiu"
        or not np.isfinite(values).all()
    ):
        raise Unfit(f"is no array of {channels} finite numbers")
    return values.reshape(channels).astype(np.float32), f"{channels}"


def _key(paths: Sequence[Path], how: str) -> str:
    digest = hashlib.sha256(how.encode())
    for path in paths:
        about = path.stat()
        digest.update(f"{path.absolute()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:40]
