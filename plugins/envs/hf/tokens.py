"""Tokenised texts: all of a data set in flat tensors, and sources of batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import attrs
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import LoadedExamples, Request, Source

from ..squad.batches import LENGTH_MULTIPLE, padded

CHUNK_TEXTS = 1000
"""Texts that are tokenised at once."""

Pair = tuple[str, str]
Text = str | Pair
"""A text, or two that are read together, such as a premise and a hypothesis."""


@attrs.frozen(eq=False)
class TokenizedTexts:
    """Texts one after another."""

    tokens: Tensor
    """(positions,) int32"""
    types: Tensor
    """(positions,) int8, 0 in the first text of a pair, 1 in the second."""
    lengths: Tensor
    """(N,) int64"""
    ends: Tensor
    """(N,) int64, one past the last position of each."""
    truncated: int = 0
    """How many were longer than the limit."""

    def __len__(self) -> int:
        return len(self.lengths)

    def inputs(self, rows: Tensor, max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """``tokens``, ``mask`` and ``types`` (B, l) of some texts, padded to the longest, and their lengths
        (B,). l is at most `max_length`."""
        lengths, ends = self.lengths[rows], self.ends[rows]
        width = min(-(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length)
        tensors = {
            "tokens": padded(self.tokens, ends, lengths, width),
            "mask": (torch.arange(width) < lengths[:, None]).to(torch.int8),
            "types": padded(self.types, ends, lengths, width),
        }
        return tensors, lengths

    def digest(self, rows: Tensor) -> str:
        """SHA-256 of some texts, in hexadecimal."""
        tensors, lengths = self.inputs(rows, int(self.lengths.max()))
        digest = hashlib.sha256(lengths.numpy().tobytes())
        for tensor in tensors.values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int) -> TokenizedTexts:
    """Texts, or pairs of texts, as the tokenizer's model reads them, with its special tokens.

    Args:
        tokenizer: whose class token comes first.
        texts: all texts, or all pairs.
        max_length: longer ones are cut at their end; of a pair the longer text first.
    """
    tokens: list[list[int]] = []
    types: list[list[int]] = []
    truncated = 0
    for first in range(0, len(texts), CHUNK_TEXTS):
        chunk = texts[first : first + CHUNK_TEXTS]
        encoded = tokenizer(
            [text if isinstance(text, str) else text[0] for text in chunk],
            [text[1] for text in chunk if not isinstance(text, str)] or None,
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
        )
        tokens += encoded["input_ids"]
        types += encoded["token_type_ids"]
        truncated += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
    return TokenizedTexts(
        torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.int32),
        torch.tensor(list(chain.from_iterable(types)), dtype=torch.int8),
        lengths,
        lengths.cumsum(0),
        truncated,
    )


class TextSource(Source):
    """The texts of a split of a task, with their classes: ``tokens``, ``mask`` and ``types`` (length,).

    Args:
        texts: of the split of the whole data set.
        rows: (N,) those of the task.
        labels: (N,) int64.
        first_id: the id of the first text of `texts`.
        max_length: the length of the inputs; a batch is padded to its longest text.
    """

    def __init__(
        self, texts: TokenizedTexts, rows: Tensor, labels: Tensor, first_id: int, max_length: int
    ) -> None:
        self.shapes = dict.fromkeys(("tokens", "mask", "types"), (max_length,))
        self._texts, self._rows, self._labels = texts, rows, labels
        self._first_id, self._max_length = first_id, max_length

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self, rows: Tensor) -> Tensor:
        return self._rows[rows] + self._first_id

    def targets(self) -> Tensor:
        return self._labels

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            inputs, lengths = self._texts.inputs(self._rows[request.rows], self._max_length)
            yield LoadedExamples(request, inputs, self._labels[request.rows], lengths)

    def digest(self, rows: Tensor) -> str:
        return self._texts.digest(self._rows[rows])
