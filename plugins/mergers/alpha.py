"""The blend of base and side: learned, fixed, or on a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, OptionError, Shape, at_least, at_most, option

USED: Final[Mapping[str, tuple[str, ...]]] = {
    "learned": ("per", "start"),
    "fixed": ("start",),
    "linear": ("end", "horizon"),
    "cosine": ("end", "horizon"),
    "hyperbolic": ("horizon",),
}
"""The options that have a meaning in each mode."""


class Alpha(Merger):
    """``w B + (1 - w) S`` with a weight w on the base B, in [0, 1] (Zhang et al., ECCV 2020).

    ``learned``: ``w = sigmoid(a)``, with one learned a or, ``per`` channel, a vector (C,) of them; at first w is ``start``. With more
    than two encodings the weights are a softmax of one learned a for each, (count,) or (count, C); at first a base that weighs ``start``
    against each single other, so that 0.5 begins with the mean of them all.

    ``fixed``: w is ``start``. 0 is the side alone, 1 the base alone.

    ``linear``, ``cosine``, ``hyperbolic``: w falls from 1, the base alone, while n training examples are seen; with k the ``horizon``
    and ``p = min(n / k, 1)``

        linear        w = 1 - (1 - end) p
        cosine        w = 1 - (1 - end) (1 - cos(pi p)) / 2
        hyperbolic    w = k / (k + n)

    The last weighs the base like a prior that is worth k examples, and goes towards 0. The original code has no curriculum. A batch is
    blended with the n from before it; n is a buffer, stands still in eval mode, and goes on from task to task in a merger that tasks
    share. In these modes and in ``fixed``, encodings other than the base share ``1 - w`` equally.

    Raises:
        OptionError: an option is set that has no meaning in the mode, or a learned weight is to start at 0 or 1, where it cannot move.
    """

    @attrs.frozen
    class Config:
        """How the weight on the base comes about."""

        mode: Literal["learned", "fixed", "linear", "cosine", "hyperbolic"] = option(
            "learned",
            "how the base's weight comes about: learned, fixed at start, or falling from 1 as examples are seen",
        )
        per: Literal["scalar", "channel"] = option("scalar", "learned: one weight, or one for each channel")
        start: float = option(
            0.5,
            "learned: weight on the base at first, in (0, 1); fixed: always, in [0, 1]",
            at_least(0),
            at_most(1),
        )
        end: float = option(
            0.5,
            "linear, cosine: weight on the base after horizon examples, in [0, 1]",
            at_least(0),
            at_most(1),
        )
        horizon: int = option(
            20_000,
            "linear, cosine: training examples until end; hyperbolic: until a weight of 0.5",
            at_least(1),
        )

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        _check(config)
        self.config, self.count = config, count
        self.channels_of_maps = config.per == "channel" and len(shape) == 3
        scheduled = config.mode not in ("learned", "fixed")
        self.seen: Tensor | None
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64) if scheduled else None)
        if config.mode == "learned":
            channels = shape[0] if len(shape) == 3 else shape[-1]
            alpha = torch.zeros(
                (() if count == 2 else (count,)) + ((channels,) if config.per == "channel" else ())
            )
            (alpha if count == 2 else alpha[0]).fill_(math.log(config.start / (1 - config.start)))
            self.alpha = nn.Parameter(alpha)

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        merged = torch.stack(
            [weight * encoding for weight, encoding in zip(self._weights(), encodings, strict=True)]
        ).sum(0)
        if self.training and self.seen is not None:
            self.seen += len(merged)
        return merged

    def weights(self) -> dict[str, float]:
        """``base``: the weight on the base, in [0, 1]; its mean over channels where each has its own."""
        return {"base": float(torch.as_tensor(self._weights()[0]).detach().mean())}

    def _weights(self) -> Sequence[Tensor | float]:
        """For each encoding a scalar, or something that spreads over its channels; they add up to 1."""
        base: Tensor | float = self.config.start
        if self.config.mode == "learned":
            alpha = self.alpha[..., None, None] if self.channels_of_maps else self.alpha
            if self.count > 2:
                return alpha.softmax(0).unbind()
            base = alpha.sigmoid()
        elif self.seen is not None:
            base = self._scheduled(self.seen)
        return [base, *[(1 - base) / (self.count - 1)] * (self.count - 1)]

    def _scheduled(self, seen: Tensor) -> Tensor:
        horizon = self.config.horizon
        if self.config.mode == "hyperbolic":
            return horizon / (horizon + seen)
        progress = (seen / horizon).clamp(max=1)
        if self.config.mode == "cosine":
            progress = (1 - torch.cos(math.pi * progress)) / 2
        return 1 - (1 - self.config.end) * progress


def _check(config: Alpha.Config) -> None:
    for field in attrs.fields(Alpha.Config):
        if field.name not in ("mode", *USED[config.mode]) and getattr(config, field.name) != field.default:
            modes = " or ".join(mode for mode, used in USED.items() if field.name in used)
            raise OptionError(
                f"merger 'alpha': {field.name} has no meaning with mode {config.mode}; leave it out, or choose mode {modes}"
            )
    if config.mode == "learned" and config.start in (0, 1):
        raise OptionError(
            f"merger 'alpha': a learned weight cannot start at {config.start:g}; choose one between, or mode fixed to keep it there"
        )
