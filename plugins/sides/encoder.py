"""A small text encoder next to a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Features,
    FitError,
    InputShapes,
    Renamed,
    Side,
    Truncatable,
    at_least,
    at_most,
    option,
    vocabulary_size,
)

from ._transformer_layer import TransformerLayer, attended_positions, position_embeddings


class Encoder(Side):
    """A transformer of a few layers over the tokens; it does not read the base's outputs.

    `init` copy: the base's embeddings, which stay frozen, and its first `layers` layers, which are trained.
    `init` random: embeddings for the base's vocabulary and pre-norm layers of `width` channels, randomly
    initialised, then a linear layer to the base's channels.

    Encoding: (B, L, C), zero at padding.

    Raises:
        FitError: the env has no tokens, or the base encodes no sequence, cannot be cut, or declares no
            vocabulary size.
    """

    @attrs.frozen
    class Config:
        """Options of the text encoder."""

        init: Literal["copy", "random"] = option(
            "copy", "initialise with a copy of the base's first layers, or with random weights"
        )
        layers: int = option(2, "number of layers", at_least(1))
        width: int = option(128, "init random: channels of the layers, a multiple of 'heads'", at_least(1))
        heads: int = option(4, "init random: number of attention heads", at_least(1))
        dropout: float = option(0.1, "init random: dropout probability", at_least(0), at_most(0.9))
        former_options: ClassVar[Mapping[str, Renamed]] = {"start": Renamed("init", {"new": "random"})}

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        if len(base.shape) != 2 or "tokens" not in inputs:
            raise FitError(
                "side 'encoder' needs an input 'tokens' and a base that encodes as (L, C), such as "
                "minilm; got "
                f"{dict(inputs)} and {tuple(base.shape)}"
            )
        if config.init == "copy":
            if not isinstance(base, Truncatable):
                raise FitError(
                    f"{type(base).__name__} cannot be truncated to {config.layers} layers, so no side can "
                    "start from its first layers; try --side.init random"
                )
            self.copied = _freeze_embeddings(base.first_layers(config.layers))
            return
        tokens = vocabulary_size(base)
        if tokens is None:
            raise FitError(
                "side 'encoder' with --side.init random needs a base that declares its vocabulary_size"
            )
        self.tokens = nn.Embedding(tokens, config.width)
        self.places = position_embeddings(base.shape[0], config.width)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout, "side 'encoder'")
            for _ in range(config.layers)
        )
        self.last = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, base.shape[1]))

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, L, C) of ``tokens``; `features` are not used."""
        if hasattr(self, "copied"):
            features = self.copied(inputs)
            return features.encoding
        mask = inputs["mask"]
        hidden = self.tokens(inputs["tokens"].long()) + self.places[: mask.shape[1]]
        attended = attended_positions(mask)
        for layer in self.layers:
            hidden = layer(hidden, attended)
        encoding: Tensor = self.last(hidden)
        return encoding.masked_fill((mask == 0)[..., None], 0)


def _freeze_embeddings(base: Base) -> Base:
    """Turn the embedding tables, most of a small encoder, into buffers: saved, and never trained."""
    for module in base.modules():
        if isinstance(module, nn.Embedding):
            table = module.weight.detach()
            del module.weight
            module.register_buffer("weight", table)
    return base
