"""A weighted sum of base and side: learned, fixed or scheduled weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, OptionError, Renamed, Shape, at_least, at_most, option

OPTIONS_BY_MODE: Final[Mapping[str, tuple[str, ...]]] = {
    "learned": ("granularity", "start"),
    "fixed": ("start",),
    "linear": ("end", "horizon"),
    "cosine": ("end", "horizon"),
    "hyperbolic": ("horizon",),
}
"""The options that apply in each mode."""


class Alpha(Merger):
    """``w B + (1 - w) S`` with a weight w on the base B, in [0, 1] (Zhang et al., ECCV 2020).

    ``learned``: ``w = sigmoid(a)`` with a learned scalar a or, with ``granularity`` channel, a learned
    vector (C,); initially w is ``start``. With more than two encodings the weights are the softmax of one
    learned a for each, (count,) or (count, C); initially the base's weight is ``start`` relative to each
    single other encoding, so that 0.5 is the mean of all.

    ``fixed``: w is ``start``. 0 is the side alone, 1 the base alone.

    ``linear``, ``cosine``, ``hyperbolic``: w decreases from 1, the base alone, with the number n of training
    examples seen; with k the ``horizon`` and ``p = min(n / k, 1)``

        linear        w = 1 - (1 - end) p
        cosine        w = 1 - (1 - end) (1 - cos(pi p)) / 2
        hyperbolic    w = k / (k + n)

    ``hyperbolic`` weights the base like a prior worth k examples, and tends to 0. The original code has no
    such schedule. A batch is merged with the n before it; n is a buffer, constant in eval mode, and keeps
    counting from task to task in a merger that tasks share. In these modes and in ``fixed``, ``1 - w`` is
    divided equally among the encodings other than the base.

    Raises:
        OptionError: an option is set that does not apply in the mode, or a learned weight starts at 0 or 1,
            where its gradient is 0.
    """

    @attrs.frozen
    class Config:
        """Options of the alpha merger."""

        mode: Literal["learned", "fixed", "linear", "cosine", "hyperbolic"] = option(
            "learned",
            "base weight: learned, fixed at start, or decreasing from 1 with the number of examples seen",
        )
        granularity: Literal["scalar", "channel"] = option(
            "scalar", "learned: one weight, or one per channel"
        )
        start: float = option(
            0.5,
            "learned: initial base weight, in (0, 1); fixed: base weight, in [0, 1]",
            at_least(0),
            at_most(1),
        )
        end: float = option(
            0.5,
            "linear, cosine: base weight after horizon examples, in [0, 1]",
            at_least(0),
            at_most(1),
        )
        horizon: int = option(
            20_000,
            "linear, cosine: training examples until end; hyperbolic: until a weight of 0.5",
            at_least(1),
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {"per": Renamed("granularity")}

    is_mean = True

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        _check(config)
        self.config, self.count = config, count
        per_channel = config.granularity == "channel"
        self.broadcasts_over_maps = per_channel and len(shape) == 3
        scheduled = config.mode not in ("learned", "fixed")
        self.seen: Tensor | None
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64) if scheduled else None)
        if config.mode == "learned":
            channels = shape[0] if len(shape) == 3 else shape[-1]
            alpha_shape = (() if count == 2 else (count,)) + ((channels,) if per_channel else ())
            alpha = torch.zeros(alpha_shape)
            (alpha if count == 2 else alpha[0]).fill_(math.log(config.start / (1 - config.start)))
            self.alpha = nn.Parameter(alpha)

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        weighted = [weight * encoding for weight, encoding in zip(self._weights(), encodings, strict=True)]
        merged = torch.stack(weighted).sum(0)
        if self.training and self.seen is not None:
            self.seen += len(merged)
        return merged

    def weights(self) -> dict[str, float]:
        """``base``: the weight on the base, in [0, 1]; the mean over channels with granularity channel."""
        return {"base": float(torch.as_tensor(self._weights()[0]).detach().mean())}

    def _weights(self) -> Sequence[Tensor | float]:
        """One weight per encoding, broadcastable to it; they sum to 1."""
        base: Tensor | float = self.config.start
        if self.config.mode == "learned":
            alpha = self.alpha[..., None, None] if self.broadcasts_over_maps else self.alpha
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
        applies = field.name in ("mode", *OPTIONS_BY_MODE[config.mode])
        if not applies and getattr(config, field.name) != field.default:
            modes = " or ".join(mode for mode, names in OPTIONS_BY_MODE.items() if field.name in names)
            raise OptionError(
                f"merger 'alpha': {field.name} does not apply in mode {config.mode}; "
                f"leave it out, or choose mode {modes}"
            )
    if config.mode == "learned" and config.start in (0, 1):
        raise OptionError(
            f"merger 'alpha': a learned weight cannot start at {config.start:g}; "
            "choose a value between 0 and 1, or mode fixed"
        )
