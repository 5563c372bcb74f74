"""Classification of texts as a task, and its use without the data."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import (
    FitError,
    InputError,
    Inputs,
    Prediction,
    Preprocessed,
    Shape,
    SupervisedTask,
    TaskCard,
    TaskHandler,
    class_predictions,
)

from ..squad.tokenizer import SavedTokenizer
from .tokens import Text, tokenize

EXPECTED = "expected a text, or a tuple of two texts where the task was trained on pairs"


class FirstTokenHead(nn.Module):
    """A linear classifier on the encoding of the first token, the class token of BERT (Devlin et al., 2019,
    section 4.1). Unlike a mean over positions it does not depend on padding."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, l, C) to (B, classes)."""
        logits: Tensor = self.linear(encoding[:, 0])
        return logits


def make_text_head(shape: Shape, classes: int) -> nn.Module:
    """The head on encodings (B, *shape) of texts.

    Raises:
        FitError: the encodings are no sequences.
    """
    if len(shape) != 2:
        raise FitError(
            "env 'hf-text' needs encodings of shape (L, C), such as those of base 'minilm'; the encoding "
            f"here has shape {tuple(shape)}"
        )
    return FirstTokenHead(shape[1], classes)


class TextTask(SupervisedTask):
    """Classify texts; inputs ``tokens``, ``mask`` and ``types``. See `SupervisedTask`."""

    tokenizer: SavedTokenizer
    is_pair: bool

    def make_head(self, shape: Shape) -> nn.Module:
        size = self.outputs.size
        assert size is not None  # by its objective
        return make_text_head(shape, size)

    def card(self) -> Mapping[str, Any]:
        return {"tokenizer": attrs.asdict(self.tokenizer), "pairs": self.is_pair}


class TextHandler(TaskHandler):
    """Classifies texts: strings, tuples of two where the task has pairs, or files with a text per line.

    Raises:
        ValueError: the card has other values than those of a classification of texts.
    """

    suffixes = (".txt",)

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        self._saved = SavedTokenizer.read(card.values.get("tokenizer"))
        lengths = {shape for shape in card.inputs.values() if len(shape) == 1}
        if set(card.inputs) != {"tokens", "mask", "types"} or len(lengths) != 1:
            raise ValueError(f"its inputs are {dict(card.inputs)}")
        self._is_pair = card.values.get("pairs") is True
        ((self._max_length,),) = lengths
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time

    def is_batch(self, value: object) -> bool:
        """Whether raw inputs are several texts: a list, or a tuple that is no pair of the task."""
        is_pair = self._is_pair and isinstance(value, tuple) and len(value) == 2
        return isinstance(value, list | tuple) and not is_pair

    def make_head(self, shape: Shape) -> nn.Module:
        size = self.card.outputs.size
        if size is None:
            raise FitError(f"task '{self.card.id}' does not say how many classes it has")
        return make_text_head(shape, size)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        """The texts as in training."""
        if not len(values):
            raise InputError(f"no texts: the batch is empty; {EXPECTED}")
        texts = [
            self._text(value, "the input" if len(values) == 1 else f"input {index}")
            for index, value in enumerate(values)
        ]
        with self._lock:
            tokenized = tokenize(self._tokenizer, texts, self._max_length)
        tensors, lengths = tokenized.inputs(torch.arange(len(texts)), self._max_length)
        return Preprocessed(Inputs(tensors, None, lengths), len(texts))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """A class for each text from logits (B, C)."""
        return class_predictions(output, self.card.outputs.names)

    def read_file(self, path: Path) -> Iterator[tuple[str, Any]]:
        """The lines of a file that are not empty."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as text: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{number}", line

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._saved.load()

    def _text(self, value: Any, where: str) -> Text:
        if isinstance(value, str) and not self._is_pair:
            return value
        is_pair = isinstance(value, tuple | list) and len(value) == 2
        if self._is_pair and is_pair and all(isinstance(text, str) for text in value):
            return (value[0], value[1])
        pair = "a pair of texts" if self._is_pair else "one text"
        raise InputError(f"{where} is of type {type(value).__name__}; this task takes {pair}: {EXPECTED}")
