"""Experience replay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._replay import Replay, ReplayConfig, Replayed


class ER(Replay):
    """Experience replay: each step learns its batch and as many examples of those that went by (Chaudhry et al., arXiv 1902.10486).

    The loss is ``mean over the batch + mean over the sample``, each example's by its own task's head and loss. The buffer is filled by
    reservoir sampling, so that it holds `buffer` of all examples that went by, each with equal probability.
    """

    Config = ReplayConfig

    def terms(self, samples: Sequence[Sequence[Replayed]]) -> dict[str, Tensor]:
        return {"replay": self.loss(samples[0])}
