"""Labelled sets of images in ``.npz`` files."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidetune_core.api import DataError

from .labelled import LabelledImages, labelled

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
Array = NDArray[Any]
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # encryption; NotImplementedError is one: unknown compression or version
    MemoryError,  # a header that tells an absurd length
    OverflowError,  # or one that no machine could hold
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for files that are damaged or made by something else."""
LARGE, MANY = 2**28, 100
"""An array of more bytes than the first that is so many times larger than in the file is no set of photographs, but made to fill memory."""


def read_archive(path: Path, size: tuple[int, int] | None = None) -> LabelledImages:
    """A labelled set from an ``.npz`` file.

    Keys: ``x_train``, ``x_test`` (N, H, W, 3), or (N, H, W) or (N, H, W, 1) for grey images, uint8; ``y_train``, ``y_test`` (N,) whole
    numbers from 0; and, if the classes have names, ``names`` (classes,) text. Grey images are repeated over three channels. Pickled
    objects are refused: nothing in the file can run code.

    Args:
        path: the file.
        size: (H, W) that the images must have; None for any.

    Raises:
        DataError: the file is missing, damaged, or lacks or misshapes one of the keys; or labels do not fit (see `labelled`).
    """
    arrays = _load(path)
    images, labels = {}, {}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if (
            x.dtype != np.uint8
            or x.ndim not in (3, 4)
            or (x.ndim == 4 and x.shape[3] not in (1, 3))
            or 0 in x.shape[1:]
        ):
            raise DataError(
                f"{path}: x_{split} must be uint8 of shape (N, H, W, 3) or (N, H, W); it is {x.dtype} {x.shape}"
            )
        if size is not None and x.shape[1:3] != size:
            raise DataError(
                f"{path}: the images of x_{split} are {x.shape[1]} x {x.shape[2]} pixels, expected {size[0]} x {size[1]}"
            )
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise DataError(
                f"{path}: y_{split} must be whole numbers, one for each of {len(x)} images; it is {y.dtype} {y.shape}"
            )
        pixels = torch.from_numpy(x if x.ndim == 4 else x[..., None]).permute(0, 3, 1, 2)
        images[split] = pixels.expand(-1, 3, -1, -1).contiguous()
        labels[split] = torch.from_numpy(y.astype(np.int64))
    return labelled(images, labels, _names(arrays, path), str(path))


def _names(arrays: dict[str, Array], path: Path) -> tuple[str, ...] | None:
    if "names" not in arrays:
        return None
    names = arrays["names"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: names must be text of shape (classes,); it is {names.dtype} {names.shape}")
    try:
        return tuple(names.tolist())
    except (ValueError, SystemError) as error:  # numbers that no character has
        raise DataError(f"{path}: names must be text: {_reason(error)}") from error


def _load(path: Path) -> dict[str, Array]:
    """The arrays of an archive that have a meaning here."""
    if not path.is_file():
        raise DataError(f"no file {path} (--env.archive)")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path} is not an .npz archive, or only the first part of one; expected what numpy.savez writes"
            )
        with np.load(path, allow_pickle=False) as archive:
            found = sorted(archive.files)
            if lacking := [key for key in REQUIRED if key not in found]:
                raise DataError(
                    f"{path} lacks {', '.join(lacking)}; it has {', '.join(map(ascii, found[:10])) or 'nothing'}"
                )
            return {key: _array(archive, key, path) for key in (*REQUIRED, "names") if key in found}
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {_reason(error)}") from error


def _array(archive: Any, key: str, path: Path) -> Array:
    for stored in archive.zip.infolist():
        if stored.filename in (f"{key}.npy", key) and stored.file_size > max(
            LARGE, MANY * stored.compress_size
        ):
            size = f"{stored.file_size / 2**30:.1f} GiB"
            raise DataError(
                f"{path}: {key} unpacks to {MANY} times its size or more, {size}; save it uncompressed"
            )
    try:
        value = archive[key]
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: {key} holds Python objects, and reading those could run their code; save it as an array of plain numbers or text"
            ) from error
        raise DataError(f"{path}: {key} cannot be read: {_reason(error)}") from error
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path}: {key} is not an array; expected what numpy.savez writes")
    return value


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
