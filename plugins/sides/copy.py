"""A side that begins as a copy of the base."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import attrs
from torch import Tensor

from sidetune_core.api import Base, Features, InputShapes, Side


class Copy(Side):
    """A trainable copy of the base, weights and all: the largest side, which fits every base."""

    @attrs.frozen
    class Config:
        """A copy has no options."""

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.network = copy.deepcopy(
            base, {id(base.cache): None}
        )  # without the stored outputs: the copy will give others

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, *base.shape) that the copy gives; `features` are not used."""
        return self.network(inputs).encoding
