"""Which taps of a base are cached: those that a side or a learner reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sidetune_core.interfaces.inputs import Features


class Taps:
    """The taps that are cached of a base.

    Args:
        indices: of the taps that are read; None for all. Indices that the base does not have are ignored.
        count: number of taps of the base.
    """

    def __init__(self, indices: Sequence[int] | None, count: int) -> None:
        everything = tuple(range(count))
        kept = everything if indices is None else tuple(sorted(set(indices) & set(everything)))
        self._kept = None if indices is None or (count and kept == everything) else kept
        self._count = count

    @property
    def key(self) -> str:
        """The same for two sets of taps if their tables have the same columns."""
        if self._kept is None:
            return "True"
        return ",".join(map(str, self._kept)) or "False"  # as in the files of former versions

    def columns(self, features: Features) -> list[Tensor]:
        """The encoding, and the taps that are cached."""
        taps = features.taps if self._kept is None else [features.taps[index] for index in self._kept]
        return [features.encoding, *taps]

    def features(self, columns: Sequence[Tensor]) -> Features:
        """Features from such columns: every tap has its position, and those that are not cached are empty
        (B, 0), unless none is.
        """
        encoding, *kept = columns
        if self._kept is None or not self._kept:
            return Features(encoding, tuple(kept))
        taps = [encoding.new_empty(len(encoding), 0)] * self._count
        for index, tap in zip(self._kept, kept, strict=True):
            taps[index] = tap
        return Features(encoding, tuple(taps))
