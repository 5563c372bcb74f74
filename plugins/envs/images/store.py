"""Where the images of an env are: in files, or in a data set that a library reads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from sidetune_core.api import InputError

from .._image_files import check_header, read_rgb, to_rgb, unreadable

MAX_FILE_BYTES = 2**30


class ImageStore(Protocol):
    """Images by name, which are read when they are needed, by several threads at once.

    Its methods raise `InputError` for an image that is missing, damaged, or not of 8 bits.
    """

    def stamp(self, name: str) -> tuple[int, int]:
        """Two numbers that change when the image does, as far as that is seen without reading it."""

    def check(self, name: str) -> None:
        """Check the image without decoding it, as far as that is possible."""

    def read(self, name: str) -> tuple[bytes, Any]:
        """The SHA-256 of the image as it is stored, and the image, as `open` returns it."""

    def open(self, name: str) -> Any:
        """A Pillow image of mode RGB."""


class FileStore:
    """Image files by their paths; the stamp is the size, and the time of modification in nanoseconds."""

    def stamp(self, name: str) -> tuple[int, int]:
        """See `stamp_of`."""
        return stamp_of(name)

    def check(self, name: str) -> None:
        """See `check_header`."""
        check_header(Path(name), name)

    def read(self, name: str) -> tuple[bytes, Any]:
        """The digest of the file's content, and the image, rotated as its EXIF data says."""
        content = _content(name)
        return hashlib.sha256(content).digest(), read_rgb(Path(name), name, rotates=True, content=content)

    def open(self, name: str) -> Any:
        """The image, rotated as its EXIF data says."""
        return read_rgb(Path(name), name, rotates=True)


FILES = FileStore()


class ImageRows(Protocol):
    """Images by their number, as a library's data set has them."""

    def image(self, row: int) -> Any:
        """A Pillow image; reading it may raise whatever the library raises."""


@attrs.frozen(eq=False)
class RowStore:
    """Images of data sets, named ``SET/ROW`` (see `row_names`)."""

    sets: Mapping[str, ImageRows]

    def stamp(self, name: str) -> tuple[int, int]:
        """Always the same: the library has opened the data."""
        return 0, 0

    def check(self, name: str) -> None:
        """Nothing is known of an image before it is read."""

    def read(self, name: str) -> tuple[bytes, Any]:
        """The digest of the pixels, and the image."""
        image = self.open(name)
        return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest(), image

    def open(self, name: str) -> Any:
        """The image, rotated as its EXIF data says."""
        key, _, row = name.rpartition("/")
        try:
            return to_rgb(self.sets[key].image(int(row)), name, rotates=True)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # what libraries and decoders raise for damaged data is not documented
            raise unreadable(name, error) from error


def row_names(key: str, count: int) -> list[str]:
    """The names of the images of a set in a `RowStore`."""
    return [f"{key}/{row}" for row in range(count)]


def stamp_of(file: str) -> tuple[int, int]:
    """Size and time of modification in nanoseconds of a file.

    Raises:
        InputError: it is missing, no regular file (reading a pipe could wait forever), or too large.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise unreadable(file, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{file} is no regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise InputError(f"{file} has {status.st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}")
    return status.st_size, status.st_mtime_ns


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
