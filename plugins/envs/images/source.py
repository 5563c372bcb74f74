"""Labelled image files, decoded when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from sidetune_core.api import DataError, InputError, LoadedExamples, Request, Source, derive_seed

from .._image_inputs import to_unit
from .augment import Augment
from .pixel_cache import PixelCache
from .preprocess import Preprocess


class ImageFiles(Source):
    """The examples of a split: an image file and a target each, the images as floats (3, size, size) in
    [0, 1].

    What is read is a function of the request, not of `threads` or `cache`.

    Args:
        files: a path for each example.
        targets: (N, ...).
        ids: (N,) int64, their example ids, also those in `cache`.
        preprocess: how a file becomes an input.
        input: name of the input.
        augment: augmentation of requests with a seed.
        cache: keeps decoded images; sources may share one.
        threads: that decode at once; 0 to decode in the thread that reads.
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
    ) -> None:
        self.shapes = {input: (3, preprocess.size, preprocess.size)}
        self.augments = augment != "none"
        self._files, self._targets, self._ids = files, targets, ids
        self._preprocess, self._input, self._augment = preprocess, input, augment
        self._cache, self._threads = cache, threads

    def __len__(self) -> int:
        return len(self._files)

    def ids(self, rows: Tensor) -> Tensor:
        return self._ids[rows]

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            pixels = torch.stack(
                [self._decode(row, request, p) for p, row in enumerate(request.rows.tolist())]
            )
            yield LoadedExamples(request, {self._input: to_unit(pixels)}, self._targets[request.rows])

    def _decode(self, row: int, request: Request, position: int) -> Tensor:
        generator = None
        if request.seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(request.seed, "example", position))
        try:
            return self._preprocess.decode(self._files[row], generator, self._augment)
        except InputError as error:
            raise DataError(str(error)) from error
