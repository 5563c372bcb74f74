"""A look at every image file before anything is trained: which are damaged, and what they hold."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, overload

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidetune_core.api import InputError

from .._image_files import ignore_warnings
from .pixel_cache import PixelCache
from .preprocess import Preprocess
from .store import FILES, ImageStore
from .workers import Workers

Mode = Literal["full", "headers", "names"]

CHUNK_FILES, CHUNK_BYTES = 64, 2**22
"""Files that a thread reads at once, and the bytes of their pixels."""

INFO_SECONDS = 5.0
"""Between two lines of progress."""


class Digests(Sequence[str]):
    """SHA-256 digests in hexadecimal, of which 32 bytes each are in memory: `values` is (N, 32) uint8."""

    def __init__(self, values: NDArray[np.uint8]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Digests(self._values[index])
        return bytes(self._values[index]).hex()


@attrs.frozen(eq=False)
class Scanned:
    """What was found."""

    bad: Mapping[str, str]
    """Files that cannot be used, in order, and why."""
    digests: Sequence[str] | None
    """A SHA-256 in hexadecimal of each file: of its content (``full``), or of its name and size
    (``headers``); None for ``names``. It is zero for a file that cannot be opened."""
    bytes: int
    """Sum of the sizes; 0 for ``names``."""
    stamps: Tensor | None
    """(N, 2) int64, size and time of modification in nanoseconds of each file, with which `ImageFiles`
    notices that one has changed; None for ``names``."""


def scan_files(
    files: Sequence[str],
    preprocess: Preprocess,
    mode: Mode,
    info: Callable[[str], None],
    cache: PixelCache | None = None,
    threads: int = 2,
    store: ImageStore = FILES,
) -> Scanned:
    """Look at every file once.

    Args:
        files: paths.
        preprocess: how they are decoded.
        mode: ``full`` reads, hashes and decodes every file; ``headers`` opens each and reads the format, mode
            and size that it states; ``names`` opens nothing.
        info: prints a line of progress, every few seconds.
        cache: keeps what ``full`` decodes, while there is room: file number i of `files` has the id i there.
        threads: that read at once.
        store: has the images that are named by `files`.
    """
    if mode == "names":
        return Scanned({}, None, 0, None)
    ignore_warnings()
    digests, stamps = np.zeros((len(files), 32), np.uint8), np.zeros((len(files), 2), np.int64)
    bad: dict[str, str] = {}
    began = latest = time.monotonic()
    for chunk in _read_chunks(files, preprocess, mode, threads, store):
        end = chunk.first + len(chunk.digests)
        digests[chunk.first : end], stamps[chunk.first : end] = chunk.digests, chunk.stamps
        bad |= chunk.bad
        if cache is not None and chunk.pixels is not None:
            good = torch.tensor([file not in chunk.bad for file in files[chunk.first : end]])
            cache.add(torch.arange(chunk.first, end)[good], chunk.pixels[good])
        if (now := time.monotonic()) > latest + INFO_SECONDS:
            latest = now
            info(f"read {end:,} of {len(files):,} images, {end / (now - began):,.0f} per second")
    return Scanned(bad, Digests(digests), int(stamps[:, 0].sum()), torch.from_numpy(stamps))


@attrs.frozen(eq=False)
class _Chunk:
    """Consecutive files that were read."""

    first: int
    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    bad: Mapping[str, str]
    pixels: Tensor | None


def _read_chunks(
    files: Sequence[str], preprocess: Preprocess, mode: Mode, threads: int, store: ImageStore
) -> Iterator[_Chunk]:
    """The chunks in order; a few are read ahead."""
    size = max(1, min(CHUNK_FILES, CHUNK_BYTES // (3 * preprocess.size**2)))
    pending: deque[Future[_Chunk]] = deque()
    with Workers(threads) as workers:
        for first in range(0, len(files), size):
            pending.append(
                workers.submit(
                    _read_chunk, first, files[first : first + size], preprocess, mode, workers, store
                )
            )
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read_chunk(
    first: int,
    files: Sequence[str],
    preprocess: Preprocess,
    mode: Mode,
    workers: Workers,
    store: ImageStore,
) -> _Chunk:
    digests, stamps = np.zeros((len(files), 32), np.uint8), np.zeros((len(files), 2), np.int64)
    size = preprocess.size
    pixels = torch.zeros(len(files), 3, size, size, dtype=torch.uint8) if mode == "full" else None
    bad = {}
    for k, file in enumerate(files):
        if workers.stopped:
            break
        try:
            stamps[k] = length, _ = store.stamp(file)
            if pixels is None:
                identity = f"{os.path.basename(file)}\0{length}".encode(errors="surrogateescape")
                digests[k] = np.frombuffer(hashlib.sha256(identity).digest(), np.uint8)
                store.check(file)
            else:
                digest, image = store.read(file)
                digests[k] = np.frombuffer(digest, np.uint8)
                pixels[k] = preprocess.fit(image)
        except InputError as error:
            bad[file] = str(error).removeprefix(file).removeprefix(":").strip()
    return _Chunk(first, digests, stamps, bad, pixels)
