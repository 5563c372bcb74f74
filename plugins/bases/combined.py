"""Base `conv` or `mlp`, depending on the inputs of the env."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    MISSION,
    Base,
    Block,
    Continuation,
    Features,
    InputShapes,
    MissionFiLM,
    at_least,
    has_mission,
    load_weights,
    option,
    without_mission,
)

from .conv import PACKAGED as CONV_WEIGHTS
from .conv import Conv
from .mlp import MLP


class Combined(Base):
    """`Conv` if the env has an input ``image`` (C, H, W), with or without further inputs; otherwise `MLP`.

    A mission in words (``--env.missions``) scales and shifts the channels of the image, by layers that begin
    as the identity (see `MissionFiLM`): a frozen base with ``image-weights`` reads the image alone, and the
    sides of tasks read their missions.

    Encoding (B, width). Taps: those of `Conv` or `MLP`.

    Raises:
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Combined."""

        width: int = option(64, "length of the encoding, and units of each layer of `mlp`", at_least(1))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")
        image_weights: str = option(
            "none",
            "weights of base 'conv' for the image alone: 'none', 'packaged' (28 x 28 pixels), or a file",
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.network: Conv | MLP
        self.mission = MissionFiLM(inputs["image"][0]) if _reads_mission(inputs) else None
        inputs = without_mission(inputs) if self.mission is not None else inputs
        if len(inputs.get("image", ())) == 3:
            self.network = Conv(Conv.Config(config.width), inputs)
        else:
            self.network = MLP(MLP.Config(config.width), inputs)
        self.shape, self.tap_shapes = self.network.shape, self.network.tap_shapes
        if config.image_weights != "none":
            load_weights(self.network, config.image_weights, owner="base 'conv'", packaged=CONV_WEIGHTS)
        load_weights(self, config.weights, owner="base 'combined'")

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the taps."""
        if self.mission is not None:
            inputs = self.mission(inputs)
        features: Features = nn.Module.__call__(self.network, inputs)  # not cached a second time
        return features

    def blocks(self) -> tuple[Block, ...]:
        """Those of `Conv` or `MLP`."""
        return tuple(attrs.evolve(block, name=f"network.{block.name}") for block in self.network.blocks())

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _AfterTap:
        """See `Continuable`."""
        after = _AfterTap(self.network.continued(tap, keep), self.mission is not None)
        return after.train(self.training)


def _reads_mission(inputs: InputShapes) -> bool:
    """Whether there is a mission and an image that it changes; a mission alone is refused by `MLP`."""
    return has_mission(inputs) and len(inputs.get("image", ())) == 3


class _AfterTap(Continuation):
    """What follows a tap of `Conv` or `MLP`, with the names of `Combined`."""

    def __init__(self, network: Continuation, has_mission: bool) -> None:
        super().__init__()
        self.network, self._has_mission = network, has_mission

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._has_mission:
            inputs = {name: value for name, value in inputs.items() if name != MISSION}
        encoding: Tensor = self.network(tap, inputs)
        return encoding
