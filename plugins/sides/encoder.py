"""A small text encoder beside a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, Side, at_least, at_most, option

from ._sequences import Layer, positions, real_positions


class Encoder(Side):
    """A transformer of a few layers over the tokens themselves; it reads nothing of the base's outputs.

    ``copy``: the base's embeddings, which stay as they are, and its first `layers` layers, which move. ``new``: embeddings of its own for
    all of the base's tokens and pre-norm layers of `width` channels, at random, then a linear layer to the base's channels.

    Encoding: (B, L, C), zero where an example has ended.

    Raises:
        FitError: the env gives no tokens, or the base encodes no sequence, cannot be cut, or does not say how many tokens it knows.
    """

    @attrs.frozen
    class Config:
        """Where the layers come from, and how many there are."""

        start: Literal["copy", "new"] = option(
            "copy", "begin as a copy of the base's first layers, or as new layers at random"
        )
        layers: int = option(2, "how many layers", at_least(1))
        width: int = option(128, "new: channels of the layers, a multiple of 'heads'", at_least(1))
        heads: int = option(4, "new: heads of attention", at_least(1))
        dropout: float = option(
            0.1, "new: share of activations that are dropped in training", at_least(0), at_most(0.9)
        )

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        if len(base.shape) != 2 or "tokens" not in inputs:
            raise FitError(
                f"side 'encoder' needs inputs 'tokens' and a base that encodes as (L, C), such as minilm; got {dict(inputs)} and "
                f"{tuple(base.shape)}"
            )
        if config.start == "copy":
            self.copied = _with_fixed_embeddings(base.first_layers(config.layers))
            return
        if base.vocabulary_size is None:
            raise FitError(
                "side 'encoder' with new layers needs a base that says how many tokens it knows (vocabulary)"
            )
        self.tokens = nn.Embedding(base.vocabulary_size, config.width)
        self.places = positions(base.shape[0], config.width)
        self.layers = nn.ModuleList(
            Layer(config.width, config.heads, config.dropout, "side 'encoder'") for _ in range(config.layers)
        )
        self.last = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, base.shape[1]))

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, L, C) of ``tokens``; `features` are not used."""
        if hasattr(self, "copied"):
            features = self.copied(inputs)
            return features.encoding
        mask = inputs["mask"]
        current, real = (
            self.tokens(inputs["tokens"].long()) + self.places[: mask.shape[1]],
            real_positions(mask),
        )
        for one in self.layers:
            current = one(current, real)
        encoding: Tensor = self.last(current)
        return encoding.masked_fill((mask == 0)[..., None], 0)


def _with_fixed_embeddings(base: Base) -> Base:
    """Turn the tables of embeddings into buffers, which are saved and never move: they are most of a small encoder."""
    for module in base.modules():
        if isinstance(module, nn.Embedding):
            table = module.weight.detach()
            del module.weight
            module.register_buffer("weight", table)
    return base
