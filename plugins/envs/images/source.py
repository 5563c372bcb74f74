"""Labelled image files, decoded when they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataError, InputError, LoadedExamples, Request, Source, derive_seed, shorten

from .._image_files import ignore_warnings
from .._image_inputs import to_unit
from .augment import FROM_FILES, Augment, crop_flip_each
from .pixel_cache import PixelCache
from .preprocess import Preprocess
from .store import FILES, ImageStore
from .workers import Workers

AHEAD_BATCHES, AHEAD_BYTES = 4, 2**26
"""Limits of what is read before it is asked for; one batch is, however large."""

CHUNK_EXAMPLES = 8
"""The least number of examples that a thread decodes at once."""


class ImageFiles(Source):
    """The examples of a split: an image file and a target each, the images as floats (3, size, size) in
    [0, 1].

    What a request returns is a function of the request, not of `threads` or `cache`. The threads live
    while `read` does.

    Args:
        files: a path for each example.
        targets: (N, ...).
        ids: (N,) int64, their example ids, also those in `cache`.
        preprocess: how a file becomes an input.
        input: name of the input.
        augment: augmentation of requests with a seed.
        cache: keeps decoded images; sources may share one. What starts from the original image does not use
            it (see `FROM_FILES`).
        threads: that decode at once; 0 to decode in the thread that reads.
        stamps: (N, 2), see `Scanned`; None not to check whether a file has changed.
        store: has the images that are named by `files`.
    """

    def __init__(
        self,
        files: Sequence[str],
        targets: Tensor,
        ids: Tensor,
        preprocess: Preprocess,
        *,
        input: str = "image",
        augment: Augment = "none",
        cache: PixelCache | None = None,
        threads: int = 2,
        stamps: Tensor | None = None,
        store: ImageStore = FILES,
    ) -> None:
        self.shapes = {input: (3, preprocess.size, preprocess.size)}
        self.augments = augment != "none"
        self._files, self._targets, self._ids, self._stamps = files, targets, ids, stamps
        self._preprocess, self._input, self._augment = preprocess, input, augment
        self._cache, self._threads, self._store = cache, threads, store
        self._active: list[Workers] = []

    def __len__(self) -> int:
        return len(self._files)

    def ids(self, rows: Tensor) -> Tensor:
        return self._ids[rows]

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        ignore_warnings()
        pending: deque[_Pending] = deque()
        with Workers(self._threads) as workers:
            self._active.append(workers)
            try:
                for request in requests:
                    if workers.stopped:
                        return
                    pending.append(self._begin(request, workers))
                    if len(pending) > self._ahead(request):
                        yield self._finish(pending.popleft())
                while pending and not workers.stopped:
                    yield self._finish(pending.popleft())
            finally:
                self._active.remove(workers)

    def close(self) -> None:
        for workers in self._active:
            workers.stop()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_active": []}

    def _ahead(self, request: Request) -> int:
        """How many batches to begin before the next one is returned."""
        if not self._threads:
            return 0
        size = len(request.rows) * 3 * self._preprocess.size**2
        return max(1, min(AHEAD_BATCHES, AHEAD_BYTES // max(1, size)))

    def _begin(self, request: Request, workers: Workers) -> _Pending:
        """Have threads decode what the cache does not have."""
        count, size = len(request.rows), self._preprocess.size
        missing = torch.ones(count, dtype=torch.bool)
        from_files = request.seed is not None and self._augment in FROM_FILES
        if self._cache is not None and not from_files:
            missing = ~self._cache.has(self._ids[request.rows])
        positions = missing.nonzero()[:, 0].tolist()
        if not positions:
            return _Pending(request, missing)
        pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
        step = max(CHUNK_EXAMPLES, -(-len(positions) // max(1, self._threads)))
        calls = [
            workers.submit(self._decode, positions[k : k + step], request, pixels, workers)
            for k in range(0, len(positions), step)
        ]
        return _Pending(request, missing, pixels, calls, from_files)

    def _decode(
        self, positions: Sequence[int], request: Request, pixels: Tensor, workers: Workers
    ) -> Mapping[int, InputError]:
        """Decode some positions of a batch into `pixels`; the errors by position."""
        errors, generator = {}, None
        if request.seed is not None and self._augment in FROM_FILES:
            generator = torch.Generator()
        for position in positions:
            if workers.stopped:
                break
            row = int(request.rows[position])
            if generator is not None:
                generator.manual_seed(derive_seed(request.seed or 0, "example", position))
            try:
                self._check_unchanged(row)
                image = self._store.open(self._files[row])
                pixels[position] = self._preprocess.fit(image, generator, self._augment)
            except InputError as error:
                errors[position] = error
        return errors

    def _check_unchanged(self, row: int) -> None:
        """
        Raises:
            InputError: the file is not the one that was scanned.
        """
        if self._stamps is None:
            return
        file = self._files[row]
        if self._store.stamp(file) != tuple(self._stamps[row].tolist()):
            raise InputError(f"{file} has changed since the run began to use it")

    def _finish(self, batch: _Pending) -> LoadedExamples:
        """The examples of a batch, which the cache keeps."""
        request, pixels = batch.request, batch.pixels
        errors: dict[int, InputError] = {}
        for call in batch.calls:
            errors |= call.result()
        if errors:
            first = errors[min(errors)]
            reasons = shorten([errors[position] for position in sorted(errors)])
            raise DataError(f"{len(errors)} of {len(request.rows)} images of a batch: {reasons}") from first
        ids = self._ids[request.rows]
        if pixels is None:
            assert self._cache is not None  # has all of them
            pixels = self._cache.get(ids)
        elif self._cache is not None and not batch.from_files:
            cached = ~batch.missing
            pixels[cached] = self._cache.get(ids[cached])
            self._cache.add(ids[batch.missing], pixels[batch.missing])
        if request.seed is not None and self._augment == "crop-flip":
            seeds = [derive_seed(request.seed, "example", position) for position in range(len(ids))]
            pixels = crop_flip_each(pixels, seeds)
        return LoadedExamples(request, {self._input: to_unit(pixels)}, self._targets[request.rows])


@attrs.frozen(eq=False)
class _Pending:
    """A batch that is being decoded."""

    request: Request
    missing: Tensor
    """(B,) bool, which of its images the cache did not have."""
    pixels: Tensor | None = None
    """(B, 3, size, size) uint8, into which those are decoded; None if there are none."""
    calls: Sequence[Future[Mapping[int, InputError]]] = ()
    from_files: bool = False
    """Whether the images were made from the original ones, so that they are not kept."""
