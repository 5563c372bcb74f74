"""Image files that others wrote: the size that a header states is checked before anything is decoded."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sidetune_core.io.files import check_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**26
"""Pixels up to which an image may be compressed by any factor; as RGB they take 192 MiB."""

MAX_PIXELS_PER_BYTE = 2**10
"""Compression of a larger image; photographs have less than a hundred pixels per byte."""

WEBP_HEADER = 30
"""Bytes at the beginning of a WebP file that state its size."""


def open_image(path: Path, content: bytes | None = None) -> Image:
    """An image file by Pillow, whose pixels are decoded when they are used. To be closed by the caller.

    Args:
        path: the file.
        content: of the file, if it has been read; the file is then not opened again.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: it is no file, no image, damaged,
            or states a size that its content is too small for.
    """
    from PIL import Image  # not needed for arrays

    if content is None:
        check_regular(path)
        with path.open("rb") as file:
            header, length = file.read(WEBP_HEADER), os.fstat(file.fileno()).st_size
    else:
        header, length = content[:WEBP_HEADER], len(content)
    size = webp_size(header)
    if size is not None:  # Pillow allocates the pixels of a WebP file when it opens it
        _check_size(length, *size)
    image = Image.open(path if content is None else io.BytesIO(content))
    try:
        _check_size(length, *image.size)
    except BaseException:
        image.close()
        raise
    return image


def webp_size(header: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file from its first `WEBP_HEADER` bytes; None for another format.

    See RFC 9649, sections 2.5 to 2.7.
    """
    if header[:4] != b"RIFF" or header[8:12] != b"WEBP" or len(header) < WEBP_HEADER:
        return None
    chunk, bits = header[12:16], int.from_bytes(header[20:30], "little")
    if chunk == b"VP8X":  # extended: 24 bits each after four bytes of flags
        return (bits >> 32 & 0xFFFFFF) + 1, (bits >> 56 & 0xFFFFFF) + 1
    if chunk == b"VP8L":  # lossless: 14 bits each after a signature of one byte
        return (bits >> 8 & 0x3FFF) + 1, (bits >> 22 & 0x3FFF) + 1
    if chunk == b"VP8 ":  # lossy: 14 of 16 bits each after six bytes of tag and start code
        return bits >> 48 & 0x3FFF, bits >> 64 & 0x3FFF
    return None


def _check_size(length: int, width: int, height: int) -> None:
    pixels = width * height
    if pixels > MAX_PIXELS and pixels > MAX_PIXELS_PER_BYTE * length:
        raise ValueError(f"it states {height} x {width} pixels, and has {length:,} bytes")
