"""A base with batch norm and dropout, both of which depend on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping

from tiny import Config, TinyBase
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import Features, InputShapes


class DropBase(TinyBase):
    """`TinyBase` with dropout of its images and of its encoding."""

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__(config, inputs)
        self.tap_shapes = ()

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        image = functional.dropout(inputs["image"], 0.2, self.training)
        encoding = super().forward({"image": image}).encoding
        return Features(functional.dropout(encoding, 0.2, self.training))
