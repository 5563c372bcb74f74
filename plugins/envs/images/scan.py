"""A look at every image file before anything is trained: which are damaged, and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from sidetune_core.api import InputError

from .pixel_cache import PixelCache
from .preprocess import Preprocess

Mode = Literal["full", "headers", "names"]


@attrs.frozen(eq=False)
class Scanned:
    """What was found."""

    bad: Mapping[str, str]
    """Files that cannot be used, in order, and why."""
    digests: Sequence[str] | None
    """A SHA-256 in hexadecimal of each file: of its content (``full``), or of its name and size
    (``headers``); None for ``names``. That of a bad file has no meaning."""
    bytes: int
    """Sum of the sizes; 0 for ``names``."""


def scan_files(
    files: Sequence[str],
    preprocess: Preprocess,
    mode: Mode,
    info: Callable[[str], None],
    cache: PixelCache | None,
    threads: int,
) -> Scanned:
    """Look at every file once.

    Args:
        files: paths.
        preprocess: how they are decoded.
        mode: ``full`` reads, hashes and decodes every file; ``headers`` opens each and reads its format and
            size; ``names`` opens nothing.
        info: prints a line of progress, every few seconds.
        cache: keeps what ``full`` decodes: the file number i of `files` has the example id i there.
        threads: that read at once.

    Raises:
        DataError: memory is short.
    """
    if mode == "names":
        return Scanned({}, None, 0)
    bad, digests, total = {}, [], 0
    for id, file in enumerate(files):
        try:
            pixels = preprocess.decode(file, None, "none")
            content = Path(file).read_bytes()
            digests.append(hashlib.sha256(content).hexdigest())
            total += len(content)
            if cache is not None and mode == "full":
                cache.add(id, pixels)
        except InputError as error:
            bad[file] = str(error)
            digests.append("")
    return Scanned(bad, digests, total)
