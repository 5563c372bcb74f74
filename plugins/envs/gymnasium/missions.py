"""Missions in words as numbers: the words of BabyAI's grammar, and any others.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .parts import Space

PADDING, UNKNOWN = 0, 1
FIRST_WORD = 2
MAX_VOCABULARY = 254
"""Words; their ids are below 256."""

GRAMMAR = (
    "go to pick up open put next a the then and after you red green blue purple yellow grey ball box key "
    "door object in front of behind on your left right"
)
"""The words of BabyAI's missions (Chevalier-Boisvert et al., ICLR 2019, figure 2)."""

MINIGRID = (
    "get square goal avoid lava find opening use reach fetch must near matching at end hallway traverse "
    "rooms room from unlock"
)
"""Other words of MiniGrid's missions."""

WORDS = (*GRAMMAR.split(), *MINIGRID.split())
"""The default vocabulary: word k has the id 2 + k; 0 is padding, and 1 any other word."""

MISSIONS_MODULE = "minigrid.core.mission"


@attrs.frozen
class MissionOptions:
    """How missions become numbers."""

    words: tuple[str, ...] = WORDS
    length: int = 48
    """In words; longer missions are cut off."""


class MissionConverter:
    """Texts as ids of words, (1, length) float32.

    Words are runs of letters and digits, in lower case.

    Attributes:
        unknown: number of words of the latest text that are not in the vocabulary.
        cut: number of its words beyond the length.
    """

    unit = 1.0

    def __init__(self, options: MissionOptions) -> None:
        self._length = options.length
        self._ids = {word.lower(): FIRST_WORD + index for index, word in enumerate(options.words)}
        self.space = spaces.Box(0, FIRST_WORD + len(options.words) - 1, (1, options.length), np.float32)
        self._text: str | None = None
        self._tokens = np.zeros((1, options.length), np.float32)
        self.unknown = self.cut = 0

    def convert(self, value: Any) -> NDArray[Any]:
        """A text."""
        if value != self._text:
            ids = [self._ids.get(word, UNKNOWN) for word in words_of(str(value))]
            self.unknown, self.cut = ids.count(UNKNOWN), max(len(ids) - self._length, 0)
            kept = ids[: self._length]
            self._text, self._tokens = str(value), np.zeros((1, self._length), np.float32)
            self._tokens[0, : len(kept)] = kept
        return self._tokens.copy()


def words_of(text: str) -> Sequence[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def is_text(space: Space) -> bool:
    """Whether observations are texts: a `Text`, or MiniGrid's missions."""
    module = sys.modules.get(MISSIONS_MODULE)  # no mission can exist before its module is imported
    return isinstance(space, spaces.Text) or (module is not None and isinstance(space, module.MissionSpace))
