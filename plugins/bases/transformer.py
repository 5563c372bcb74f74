"""Any text encoder of the transformers library."""

from __future__ import annotations

from typing import Literal

import attrs

from sidetune_core.api import InputShapes, option

from ._encoder import Encoder, EncoderOptions


class Transformer(Encoder):
    """A text encoder by its name on the Hugging Face hub, or from a folder, such as BERT, RoBERTa, ELECTRA or DeBERTa.

    Weights are read from safetensors only, and no code that comes with a model is run. A folder is read without any network. Use the
    tokenizer of the same model: ``--env.tokenizer``. Inputs, encoding and taps are those of `Encoder`: tokens (L,) to (L, C).
    """

    @attrs.frozen
    class Config(EncoderOptions):
        """Which model."""

        model: str = option(
            "google-bert/bert-base-uncased",
            "name on the Hugging Face hub, or a folder with config.json and model.safetensors",
        )
        weights: Literal["pretrained", "none"] = option(
            "pretrained", "the model's weights, or 'none' (random ones, from its config.json)"
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__(
            config.model, config.weights == "pretrained", inputs, config.tap_every, "base 'transformer'"
        )
