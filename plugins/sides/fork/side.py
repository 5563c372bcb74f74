"""Side `fork`: a copy of the base's own layers that continues from one of its taps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import attrs
from torch import Tensor

from sidetune_core.api import (
    Base,
    Continuable,
    Continuation,
    Features,
    FitError,
    InputShapes,
    OptionError,
    Side,
    at_least,
    option,
)

from .adapted import adapted_copy
from .selection import choose_blocks, taps_to_try


class Fork(Side):
    """A copy of the base's layers after one tap, from the base's weights: partial fine-tuning of a copy.

    The frozen base computes what is below the tap, once per example where its outputs are cached. At first
    the side's encoding is that of the base, unless blocks are left out. Its own top layers fit a task better
    than new ones, the more so the later the tap (Yosinski et al., NeurIPS 2014); as in ladder side-tuning
    there is no backpropagation through the base (Sung et al., LST, NeurIPS 2022).

    ``train`` full trains all of the copy. In the other modes convolutions, linear layers and everything else
    but norms read the weights of the base itself, frozen, which no task stores again; norms are trained
    copies, with statistics of their own:

    - adapters: parallel to each convolution that is wider than 1 x 1, a 1 x 1 convolution with the stride and
      the groups of that (Rebuffi et al., CVPR 2018); parallel to each linear layer, a bottleneck of `rank`
      units with ReLU (He et al., ICLR 2022). The last layer of each is zero at first.
    - lora: W + BA with A of `rank` rows and B zero at first (Hu et al., ICLR 2022); for a convolution A is
      one of the same kernel to `rank` channels, and B 1 x 1. Convolutions in groups stay frozen.
    - norm: norms alone.

    Layers that the base does not call as modules, such as those within `torch.nn.MultiheadAttention`, stay
    frozen in these modes, and so do those of subclasses, such as timm's ``StdConv2d`` and ``Conv2dSame``.
    Where a learner trains its base, what reads the base's weights changes with it.

    Raises:
        FitError: the base cannot be continued from a tap, has no such tap or no such blocks, or nothing that
            could be trained follows.
        OptionError: `rank` is set in a mode without it.
    """

    @attrs.frozen
    class Config:
        """Options of the fork."""

        after: int | None = option(
            None,
            "tap to continue from: 0 is the first, -1 the last; none: the first after which the copy costs "
            "at most a third of the base",
        )
        blocks: tuple[int, ...] = option(
            (),
            "numbers of the base's blocks to keep; a single number is their count, spread evenly; without "
            "any: all after the tap",
        )
        train: Literal["full", "adapters", "lora", "norm"] = option(
            "full",
            "train the whole copy; or parallel adapters and norms, low-rank updates and norms, or norms",
        )
        rank: int = option(8, "lora: rank of an update; adapters: units next to a linear layer", at_least(1))

    needs_taps = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        _check(config)
        if not isinstance(base, Continuable):
            raise FitError(
                "side 'fork' needs a base that can be continued from a tap, such as resnet44, torchvision "
                f"or minilm; {type(base).__name__} cannot"
            )
        blocks, taps = base.blocks(), len(base.tap_shapes)
        tried = taps_to_try(base, blocks, config.after)
        refusals: list[str] = []
        for tap in tried:
            keep = choose_blocks(blocks, taps, tap, config.blocks)
            try:
                copied = _copied(config, inputs, base, tap, keep)
            except FitError as error:
                refusals.append(str(error))
                continue
            if any(True for _ in copied.parameters()):
                self.continuation, self._tap, self.tap_indices = copied, tap, (tap,)
                following = sum(block.after >= tap for block in blocks)
                self.begins_at_base = keep is None or len(keep) == following
                return
        if refusals:
            raise FitError(refusals[0])
        where = f"tap {tried[0]}" if len(tried) == 1 else "a tap"
        advice = "another --side.after" + (", or --side.train full" if config.train != "full" else "")
        raise FitError(
            f"side 'fork': nothing that --side.train {config.train} could train follows {where} of "
            f"{type(base).__name__}; choose {advice}"
        )

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, *base.shape) from the tap; `inputs` give the mask of a sequence."""
        encoding: Tensor = self.continuation(features.taps[self._tap], inputs)
        return encoding


def _copied(
    config: Fork.Config, inputs: InputShapes, base: Continuable, tap: int, keep: Collection[int] | None
) -> Continuation:
    """What a fork computes after a tap; see `Fork` and `Continuable.continued` for the arguments."""
    if config.train == "full":
        return base.continued(tap, keep)
    return adapted_copy(base, tap, keep, inputs, config.train, config.rank)


def _check(config: Fork.Config) -> None:
    default = attrs.fields(Fork.Config).rank.default
    if config.train in ("full", "norm") and config.rank != default:
        raise OptionError(
            f"side 'fork': rank does not apply with train {config.train}; leave it out, or choose train lora "
            "or adapters"
        )
