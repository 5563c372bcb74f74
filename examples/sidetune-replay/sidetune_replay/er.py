"""Experience replay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._replay import Replay, ReplayConfig, Replayed, loss


class ER(Replay):
    """Experience replay: each step trains on its batch and a sample of the same size (Chaudhry et al., 2019).

    The loss is ``mean over the batch + mean over the sample``, each example's by its own task's head and
    loss. Reservoir sampling fills the buffer: it holds `buffer` of all past examples, each with equal
    probability (arXiv 1902.10486).
    """

    Config = ReplayConfig

    def replay(self, samples: Sequence[Sequence[Replayed]]) -> dict[str, Tensor]:
        return {"replay": loss(samples[0])}
