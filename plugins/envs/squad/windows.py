"""Windows of tokens: a question with a span of its context, and the answer's position in it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from sidetune_core.api import DataError

from .records import Answer, Question

Offsets = NDArray[np.int32]


@attrs.frozen(eq=False)
class Windows:
    """All windows of a set of questions, concatenated: window k covers positions ``ends[k - 1]`` to
    ``ends[k]``.

    A context that does not fit is cut into windows that start `stride` context tokens apart. If several
    windows share a token, an answer may start with it only in the window of maximum context, the minimum of
    left and right context (Devlin et al., 2019).
    """

    questions: Tensor
    """(N,) index of each window's question in the list that was cut, ascending."""
    ends: Tensor
    """(N,)"""
    tokens: Tensor
    """(positions,) int32"""
    types: Tensor
    """(positions,) int8, 0 in the question and 1 in the context, if the tokenizer distinguishes them."""
    offsets: Tensor
    """(positions, 2) int32, half-open character range of the token in the context; -1 outside the context."""
    can_start: Tensor
    """(positions,) bool, whether an answer may start here."""
    targets: Tensor
    """(N, 2) int64, start and end position of the first reference answer; (0, 0) if it is not inside the
    window.
    """

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Tensor:
        """(N,) number of positions of each window."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def fingerprint(self) -> str:
        """SHA-256 of the network inputs."""
        digest = hashlib.sha256()
        for tensor in (self.ends, self.tokens, self.types):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def make_windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[tuple[Question, str]],
    max_length: int,
    stride: int,
    source: str,
    truncate: int | None = None,
) -> Windows:
    """Cut questions with their contexts into windows.

    Args:
        tokenizer: a fast one.
        questions: questions, each with its context.
        max_length: largest number of tokens in a window.
        stride: context tokens between the starts of two windows.
        source: description of the questions, for the message.
        truncate: cut questions after this many tokens.

    Raises:
        DataError: a question leaves less room in a window than the stride.
    """
    texts = [question.text for question, _ in questions]
    if truncate is not None:
        texts = _truncated(tokenizer, texts, truncate)
    sizes = _token_counts(tokenizer, texts)
    max_question = max_question_length(tokenizer, max_length, stride)
    if too_long := [index for index, size in enumerate(sizes) if size > max_question]:
        longest = max(too_long, key=lambda index: sizes[index])
        raise DataError(
            f"{source}: {len(too_long)} of {len(sizes)} questions are too long; a window of {max_length} "
            f"tokens with a stride of {stride} has room for {max_question}; the longest, "
            f"'{questions[longest][0].id}', has {sizes[longest]}. Truncate them with "
            f"--env.max-question-length {max_question}, or increase --env.max-length"
        )
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        by_size[size].append(index)
    cut: list[list[_Window]] = [[] for _ in questions]
    for size, group in by_size.items():
        encoding = tokenizer(
            [texts[index] for index in group],
            [questions[index][1] for index in group],
            truncation="only_second",
            max_length=max_length,
            stride=max_question - size,  # the tokenizer's stride is the overlap
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            verbose=False,
        )
        for row, sample in enumerate(encoding["overflow_to_sample_mapping"]):
            cut[group[sample]].append(_window(encoding, row))
    for index, windows in enumerate(cut):
        _set_targets(windows, questions[index][0].answers[:1])
        _keep_maximum_context(windows, stride)
    return _concatenate(cut)


def max_question_length(tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> int:
    """Tokens for which a window of `max_length` has room next to a stride."""
    return max_length - int(tokenizer.num_special_tokens_to_add(pair=True)) - stride


def _token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    return [len(tokens) for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _truncated(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> list[str]:
    """The characters of the first `limit` tokens of each text."""
    if not texts:
        return []
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        text if len(ranges) <= limit else text[: ranges[limit - 1][1]]
        for text, ranges in zip(texts, offsets, strict=True)
    ]


@attrs.define(eq=False)
class _Window:
    tokens: list[int]
    types: list[int]
    offsets: Offsets
    first: int
    """First position of the context, which is contiguous; `last` is one past its last position."""
    last: int
    can_start: NDArray[np.bool_]
    target: tuple[int, int] = (0, 0)


def _window(encoding: BatchEncoding, row: int) -> _Window:
    in_context = np.array([sequence == 1 for sequence in encoding.sequence_ids(row)])
    ranges = np.array(encoding["offset_mapping"][row], dtype=np.int32)
    first = int(in_context.argmax()) if in_context.any() else len(in_context)
    return _Window(
        encoding["input_ids"][row],
        encoding["token_type_ids"][row],
        np.where(in_context[:, None], ranges, np.int32(-1)),
        first,
        first + int(in_context.sum()),
        in_context.copy(),
    )


def _set_targets(windows: Sequence[_Window], answers: Sequence[Answer]) -> None:
    """Set the targets of all windows of a question."""
    for answer in answers:
        end = answer.start + len(answer.text)
        for index, window in enumerate(windows):
            starts, ends = window.offsets[window.first : window.last].T
            if not len(starts):
                continue
            cut_before = index > 0 and starts[0] > answer.start
            cut_after = index + 1 < len(windows) and ends[-1] < end
            if cut_before or cut_after:
                continue
            first = int(np.searchsorted(ends, answer.start, side="right"))
            last = int(np.searchsorted(starts, end, side="left")) - 1
            if first <= last:
                window.target = (window.first + first, window.first + last)


def _keep_maximum_context(windows: Sequence[_Window], stride: int) -> None:
    """For each token shared by windows of a question, leave `can_start` set in one of them only."""
    if len(windows) < 2:
        return
    sizes = [window.last - window.first for window in windows]
    context = np.full((len(windows), stride * (len(windows) - 1) + sizes[-1]), -np.inf)
    for row, size in enumerate(sizes):
        position = np.arange(size)
        minimum = np.minimum(position, size - 1 - position)
        context[row, row * stride : row * stride + size] = minimum + 0.01 * size
    best = context.argmax(0)
    for row, (window, size) in enumerate(zip(windows, sizes, strict=True)):
        window.can_start[window.first : window.last] = best[row * stride : row * stride + size] == row


def _concatenate(cut: Sequence[Sequence[_Window]]) -> Windows:
    flat = [window for windows in cut for window in windows]
    questions = [index for index, windows in enumerate(cut) for _ in windows]
    offsets = [window.offsets for window in flat] or [np.zeros((0, 2), np.int32)]
    can_start = [window.can_start for window in flat] or [np.zeros(0, np.bool_)]
    return Windows(
        questions=torch.tensor(questions, dtype=torch.int64),
        ends=torch.tensor([len(window.tokens) for window in flat], dtype=torch.int64).cumsum(0),
        tokens=torch.tensor([token for window in flat for token in window.tokens], dtype=torch.int32),
        types=torch.tensor([kind for window in flat for kind in window.types], dtype=torch.int8),
        offsets=torch.from_numpy(np.concatenate(offsets)),
        can_start=torch.from_numpy(np.concatenate(can_start)),
        targets=torch.tensor([window.target for window in flat], dtype=torch.int64).view(-1, 2),
    )
