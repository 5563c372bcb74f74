"""Reader of labelled image sets in ``.npz`` files."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidetune_core.api import DataError

from .labelled import LabelledImages, make_labelled_images
from .mapped import MIN_MAPPED_BYTES, UnchangedFile, map_array

REQUIRED_KEYS = ("x_train", "y_train", "x_test", "y_test")
Array = NDArray[Any]
READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # encryption; NotImplementedError is a subclass: unknown compression or version
    MemoryError,  # a header with an absurd length
    OverflowError,  # or with a length beyond the address space
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for files that are damaged or have another format."""
MAX_UNCHECKED_BYTES = 2**28
"""Arrays up to this size are unpacked whatever their compression ratio."""
MAX_COMPRESSION_RATIO = 100
"""A larger array with a higher ratio is refused as a decompression bomb; photographs compress less."""


def read_archive(path: Path, size: tuple[int, int] | None = None) -> LabelledImages:
    """Read a labelled set from an ``.npz`` file.

    Keys: ``x_train``, ``x_test`` (N, H, W, 3), or (N, H, W) or (N, H, W, 1) for grey images, uint8;
    ``y_train``, ``y_test`` (N,) any integers, with names from 0 or 1; and optionally ``names`` (classes,)
    text. Grey images are repeated over three channels. Pickled objects are refused: nothing in the file can
    run code. Large arrays that are stored uncompressed are mapped (see `mapped`), others are read.

    Args:
        path: the file.
        size: required (H, W) of the images; None for any.

    Raises:
        DataError: the file is missing or damaged, a key is missing or has the wrong type or shape, or labels
            are invalid (see `make_labelled_images`).
    """
    unchanged = UnchangedFile.of(path) if path.is_file() else None
    arrays = _load(path)
    images, labels = {}, {}
    for split in ("train", "test"):
        images[split] = _images(arrays[f"x_{split}"], f"x_{split}", size, path)
        labels[split] = _labels(arrays[f"y_{split}"], f"y_{split}", len(images[split]), path)
    check = unchanged if any(isinstance(array, np.memmap) for array in arrays.values()) else None
    made = make_labelled_images(images, labels, _names(arrays, path), str(path))
    return made if check is None else attrs.evolve(made, check=check)


def _images(array: Array, key: str, size: tuple[int, int] | None, path: Path) -> Tensor:
    """(N, 3, H, W) uint8; a view of a large array, not a copy."""
    is_grey = array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 1)
    is_rgb = array.ndim == 4 and array.shape[3] == 3
    if array.dtype != np.uint8 or not (is_grey or is_rgb) or 0 in array.shape[1:]:
        raise DataError(
            f"{path}: {key} must be uint8 of shape (N, H, W, 3) "
            f"or (N, H, W); it is {array.dtype} {array.shape}"
        )
    if size is not None and array.shape[1:3] != size:
        raise DataError(
            f"{path}: the images of {key} are {array.shape[1]} x "
            f"{array.shape[2]} pixels, expected {size[0]} x {size[1]}"
        )
    pixels = torch.from_numpy(array if array.ndim == 4 else array[..., None]).permute(0, 3, 1, 2)
    pixels = pixels.expand(-1, 3, -1, -1)
    return pixels if array.nbytes >= MIN_MAPPED_BYTES else pixels.contiguous()


def _labels(array: Array, key: str, count: int, path: Path) -> Tensor:
    """(N,) int64."""
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise DataError(
            f"{path}: {key} must be integers, one for each of "
            f"{count} images; it is {array.dtype} {array.shape}"
        )
    return torch.from_numpy(array.astype(np.int64))


def _names(arrays: dict[str, Array], path: Path) -> tuple[str, ...] | None:
    if "names" not in arrays:
        return None
    names = arrays["names"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: names must be text of shape (classes,); it is {names.dtype} {names.shape}")
    try:
        return tuple(names.tolist())
    except (ValueError, SystemError) as error:  # invalid code points
        raise DataError(f"{path}: names must be text: {_reason(error)}") from error


def _load(path: Path) -> dict[str, Array]:
    """The required arrays of an archive, and the class names if present; other keys are ignored."""
    if not path.is_file():
        raise DataError(f"no file {path} (--env.archive)")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path} is not an .npz archive, or is truncated; expected a file written by numpy.savez"
            )
        with np.load(path, allow_pickle=False) as archive:
            keys = sorted(archive.files)
            if missing := [key for key in REQUIRED_KEYS if key not in keys]:
                present = ", ".join(map(ascii, keys[:10])) or "no arrays"
                raise DataError(f"{path}: missing keys {', '.join(missing)}; it has {present}")
            return {key: read_array(archive, key, path) for key in (*REQUIRED_KEYS, "names") if key in keys}
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {_reason(error)}") from error


def read_array(archive: Any, key: str, path: Path) -> Array:
    """An array of an open ``.npz`` archive.

    Raises:
        DataError: it is damaged, holds Python objects, or unpacks to far more than its size in the file.
    """
    for entry in archive.zip.infolist():
        limit = max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION_RATIO * entry.compress_size)
        if entry.filename in (f"{key}.npy", key) and entry.file_size > limit:
            raise DataError(
                f"{path}: {key} unpacks to {entry.file_size / 2**30:.1f} GiB, more than "
                f"{MAX_COMPRESSION_RATIO} times its size in the file; save it uncompressed"
            )
    try:
        value = map_array(archive.zip, key, path)
        if value is None:
            value = archive[key]
    except READ_ERRORS as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: {key} holds pickled Python objects, which could run "
                "code when loaded; save it as an array of numbers or text"
            ) from error
        raise DataError(f"{path}: {key} cannot be read: {_reason(error)}") from error
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path}: {key} is not an array; expected a file written by numpy.savez")
    return value


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
