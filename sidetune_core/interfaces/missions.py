"""Missions in words as an input of policies, and the layers that read them.

A mission is the input ``mission`` of shape (1, L), or (frames, L) with stacked frames: ids of its words from
1 on, and 0 after its end.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from sidetune_core.interfaces.inputs import InputShapes

MISSION = "mission"
MAX_WORDS = 256
"""Ids of words are below it."""
EMBEDDING = 32
HIDDEN = 64


def has_mission(inputs: InputShapes) -> bool:
    """Whether there is a mission among the inputs."""
    return len(inputs.get(MISSION, ())) == 2


class MissionFiLM(nn.Module):
    """Scales and shifts the channels of ``image`` by the mission: ``(1 + gamma) * image + beta``.

    An embedding of words and a GRU read the mission, and a linear layer predicts gamma and beta for each
    channel (Perez et al., FiLM, AAAI 2018; as in BabyAI's networks, Chevalier-Boisvert et al., ICLR 2019, but
    on the input). The linear layer begins at zero, so that the image is unchanged at first.

    Args:
        channels: of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MAX_WORDS, EMBEDDING, padding_idx=0)
        self.gru = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def encode(self, tokens: Tensor) -> Tensor:
        """Missions (B, L) to (B, HIDDEN); an empty one to zeros."""
        lengths = (tokens != 0).sum(1).cpu()
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths.clamp(min=1), batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        code: Tensor = last[0]
        return code * (lengths > 0).to(code).unsqueeze(1)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs without the mission, and with the image (B, C, H, W) that it changes."""
        code = self.encode(inputs[MISSION][:, -1].round().long())
        gamma, beta = self.linear(code)[:, :, None, None].chunk(2, 1)
        rest = {name: value for name, value in inputs.items() if name != MISSION}
        return {**rest, "image": torch.addcmul(rest["image"] + beta, rest["image"], gamma)}


def without_mission(inputs: InputShapes) -> InputShapes:
    """The other inputs."""
    return {name: shape for name, shape in inputs.items() if name != MISSION}
