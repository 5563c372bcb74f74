"""A side that is initialised as a copy of the base."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import attrs
from torch import Tensor

from sidetune_core.api import Base, Features, InputShapes, Side


class Copy(Side):
    """A trainable copy of the base with its weights: the largest side, which fits every base."""

    @attrs.frozen
    class Config:
        """Options of the copy: none."""

    begins_at_base = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.network = copy.deepcopy(
            base, {id(base.cache): None}
        )  # its outputs will differ from the cached ones

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The copy's encoding (B, *base.shape); `features` are not used."""
        return self.network(inputs).encoding
