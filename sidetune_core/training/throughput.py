"""Tokens per second in the training of sequences."""

from __future__ import annotations

import time
from collections.abc import Iterable

import attrs

from sidetune_core.interfaces.tasks import Batch


@attrs.define
class Throughput:
    """Counts the tokens of training batches, without padding; inputs without ``lengths`` are not counted."""

    tokens: int = 0
    _began: float = attrs.field(factory=time.monotonic)

    def add(self, batches: Iterable[Batch]) -> None:
        """Count the batches of a step."""
        for batch in batches:
            if batch.inputs.lengths is not None:
                self.tokens += int(batch.inputs.lengths.sum())

    @property
    def per_second(self) -> float:
        """Tokens per second of wall-clock time since the first step."""
        return self.tokens / max(time.monotonic() - self._began, 1e-9)

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, {self.per_second:,.0f} per second"
