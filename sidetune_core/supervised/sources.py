"""Sources of labelled examples, which are read when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping

import attrs
from torch import Tensor

from sidetune_core.interfaces.inputs import InputShapes


@attrs.frozen(eq=False)
class Request:
    """Examples that are read as one batch."""

    rows: Tensor
    """(B,) int64, their numbers in the source."""
    seed: int | None = None
    """Of everything random about reading them; None to read them as they are, without augmentation."""


@attrs.frozen(eq=False)
class LoadedExamples:
    """The examples of a request."""

    request: Request
    inputs: Mapping[str, Tensor]
    """(B, *shape) by name, as the networks take them."""
    targets: Tensor
    """(B, ...)"""
    lengths: Tensor | None = None
    """(B,) int64, of sequences that are padded to the longest of the batch (see `Inputs`)."""


class Source(ABC):
    """The labelled examples of one split of a task."""

    shapes: InputShapes
    """Of the inputs, by name, without the batch axis."""
    augments: bool = False
    """Whether reading an example is random in training, so that its features cannot be cached."""
    lazy_targets: bool = False
    """Whether `targets` reads the examples; the targets are then checked batch by batch, as they are read."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def ids(self, rows: Tensor) -> Tensor:
        """Stable ids (B,) int64 of some examples: unique in the task, or in the stream (see
        `TaskStream.shared_ids`)."""

    @abstractmethod
    def targets(self) -> Tensor:
        """The targets (N, ...) of all examples in order, without reading their inputs where that is
        possible."""

    @abstractmethod
    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        """Read batches, in order. A source may read ahead; what it returns for a request depends on that
        request only, not on threads, workers or earlier requests.

        Raises:
            DataError: an example cannot be read, or has another shape.
        """

    def digest(self, rows: Tensor) -> str:
        """SHA-256 of the stored inputs of some examples, in hexadecimal; empty if unknown. A run records it,
        to say which data have changed."""
        return ""

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """End workers and close files."""
