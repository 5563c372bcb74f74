"""Dark experience replay."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, Components, at_least, option

from ._replay import Replay, ReplayConfig, Replayed, loss


class DERpp(Replay):
    """DER++: replay with the network's stored outputs as targets (Buzzega et al., NeurIPS 2020, eq. 6).

    The loss is ``mean over the batch + alpha * mse + beta * replay``. ``mse`` is the squared difference
    between the current outputs of an example's own head and those stored with it, a mean over outputs and
    over one sample (the paper has the squared norm). In the scenario ``class`` these are the logits of all
    classes at the time it was stored. ``replay`` is the mean loss by the stored targets over
    another sample. With beta 0 this is DER.
    """

    @attrs.frozen
    class Config(ReplayConfig):
        """Options of `DERpp`."""

        alpha: float = option(
            0.5, "weight of the mean squared difference from the stored outputs", at_least(0)
        )
        beta: float = option(0.5, "weight of the mean loss by the stored targets", at_least(0))

    samples = 2

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self._alpha, self._beta = config.alpha, config.beta

    def columns(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        return {**super().columns(batch, output), "output": output}

    def replay(self, samples: Sequence[Sequence[Replayed]]) -> dict[str, Tensor]:
        first, second = samples
        return {"mse": self._alpha * _distance(first), "replay": self._beta * loss(second)}


def _distance(sample: Sequence[Replayed]) -> Tensor:
    squares = []
    for replayed in sample:
        stored = replayed.columns["output"]
        present = replayed.output[:, : stored.shape[1]].float()  # those of later classes follow
        squares.append((present - stored).square().flatten(1).mean(1))
    return torch.cat(squares).mean()
