"""A transformer base."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tiny import Config
from torch import Tensor, nn

from sidetune_core.api import Base, Features, InputShapes


class Attention(Base):
    """``image`` (3, 8, 8) to (4, 8): two blocks on its quarters. Pretrained in that its weights are always
    the same.
    """

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (4, 8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 8, 4, stride=4)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)
            )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        tokens = self.first(inputs["image"]).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return Features(tokens)
