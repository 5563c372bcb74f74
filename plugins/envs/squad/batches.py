"""Batches of windows, and the answers that a network's outputs for them vote for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sidetune_core.api import Inputs

from .answers import AnswerVotes, best_spans, spans_in_text
from .records import Question
from .windows import Windows

LENGTH_MULTIPLE = 16
"""The length of a batch is rounded up to a multiple of this."""


@attrs.frozen(eq=False)
class QuestionSet:
    """Questions with their contexts and windows; `first_id` is the id of the first window."""

    questions: Sequence[tuple[Question, str]]
    windows: Windows
    first_id: int


@attrs.frozen
class Decoding:
    """Options of answer decoding."""

    max_answer_length: int
    """Largest number of tokens in an answer."""
    n_best: int
    """Answers to write for each question."""
    null_threshold: float | None
    """Null odds above this mean no answer; None if every question has one."""


def window_inputs(windows: Windows, indices: Tensor, max_length: int, ids: Tensor | None) -> Inputs:
    """The inputs of some windows: ``tokens``, ``mask`` and ``types`` (B, l) with l at most `max_length`."""
    ends, lengths = windows.ends[indices], windows.lengths[indices]
    rounded = -(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    width = min(rounded, max_length)
    tensors = {"tokens": padded(windows.tokens, ends, lengths, width)}
    tensors["mask"] = (torch.arange(width) < lengths[:, None]).to(torch.int8)
    tensors["types"] = padded(windows.types, ends, lengths, width)
    return Inputs(tensors, ids, lengths)


def add_votes(
    questions: QuestionSet,
    indices: Tensor,
    logits: Tensor,
    decoding: Decoding,
    votes: Sequence[AnswerVotes],
) -> None:
    """Add the best spans of a batch of windows to the votes of their questions.

    Args:
        questions: all questions.
        indices: of the windows, (B,).
        logits: (B, l, 2), the network's output for them.
        decoding: options.
        votes: of each question.
    """
    windows = questions.windows
    ends, lengths = windows.ends[indices], windows.lengths[indices]
    width = logits.shape[1]
    can_start = padded(windows.can_start, ends, lengths, width)
    can_end = padded(windows.offsets[:, 0] >= 0, ends, lengths, width)
    sums, start, end = best_spans(logits, can_start, can_end, decoding.max_answer_length, decoding.n_best)
    null_scores = logits[:, 0].sum(1).tolist()
    for row, question in enumerate(windows.questions[indices].tolist()):
        vote, context = votes[question], questions.questions[question][1]
        vote.null_score = min(vote.null_score, null_scores[row])
        count = int(sums[row].isfinite().sum())
        offsets = windows.offsets[int(ends[row] - lengths[row]) : int(ends[row])]
        spans = list(zip(start[row, :count].tolist(), end[row, :count].tolist(), strict=True))
        characters = spans_in_text(context, offsets, spans)
        for (first, last), score in zip(characters, sums[row, :count].tolist(), strict=True):
            vote.add(context[first:last], score, first)


def padded(values: Tensor, ends: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Slices of (positions,) that end at `ends` (B,), as (B, width) padded with zeros."""
    rows = [values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    slices = pad_sequence(rows, batch_first=True)
    return functional.pad(slices, (0, width - slices.shape[1]))


def finite(value: float) -> float | None:
    """None, which is ``null`` in JSON, for odds that are infinite: a logit was masked by -inf."""
    return value if abs(value) != float("inf") else None
