"""Arrays of ``.npz`` files that are mapped into memory: their pages are read when they are used, can be given
back by the system at any time, and are the same for all processes that read the file."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sidetune_core.api import DataError

MIN_MAPPED_BYTES = 2**26
"""Smaller arrays are read into memory."""
BLOCK_BYTES = 2**24
LOCAL_HEADER = 30
"""Bytes before the name of a member, whose length is at 26, and that of the extra field after it at 28."""


@attrs.frozen
class UnchangedFile:
    """Checks that a file which is mapped keeps its content.

    What is written into it would appear in the arrays, and reading behind its end would end the process. A
    file that another has replaced under its name is mapped as it was.
    """

    path: Path
    inode: tuple[int, int]
    size: int
    modified: int
    """In nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> UnchangedFile:
        """The present state of a file."""
        state = path.stat()
        return cls(path.absolute(), (state.st_dev, state.st_ino), state.st_size, state.st_mtime_ns)

    def __call__(self) -> None:
        """Check it.

        Raises:
            DataError: it has changed.
        """
        try:
            state = os.stat(self.path)
        except OSError:
            return  # deleted: the mapping has it still
        if (state.st_dev, state.st_ino) != self.inode:
            return
        if (state.st_size, state.st_mtime_ns) != (self.size, self.modified):
            raise DataError(
                f"{self.path} was changed while it was in use; what was read since then may be wrong. "
                "Write a new file under another name, and start the run again"
            )


def map_array(archive: zipfile.ZipFile, key: str, path: Path) -> NDArray[Any] | None:
    """A large array that is stored uncompressed, as it is in the file; None if it is not, or is damaged.

    Its checksum is verified, which reads it once.

    Args:
        archive: the open file.
        key: the name of the array.
        path: of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the header of the array is damaged.
    """
    entry = next((entry for entry in archive.infolist() if entry.filename in (f"{key}.npy", key)), None)
    if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        return None
    if entry.file_size < MIN_MAPPED_BYTES:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(LOCAL_HEADER)
        if len(header) != LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            return None
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = entry.header_offset + LOCAL_HEADER + name + extra
        file.seek(start)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        read_header = readers.get(npy.read_magic(file))
        if read_header is None:
            return None
        shape, is_fortran, dtype = read_header(file)
        offset = file.tell()
    count = int(np.prod(shape, dtype=object))
    fits = offset + count * dtype.itemsize == start + entry.file_size <= path.stat().st_size
    if dtype.hasobject or is_fortran or not fits or _checksum(path, start, entry.file_size) != entry.CRC:
        return None
    return np.memmap(path, dtype, "c", offset, shape)  # "c": writable, as PyTorch wants it; nobody writes


def _checksum(path: Path, start: int, size: int) -> int:
    """CRC-32 of a part of a file."""
    value = 0
    with path.open("rb") as file:
        file.seek(start)
        while size > 0 and (block := file.read(min(size, BLOCK_BYTES))):
            value = zlib.crc32(block, value)
            size -= len(block)
    return value
