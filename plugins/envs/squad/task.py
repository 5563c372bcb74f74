"""Extractive question answering as a task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sidetune_core.api import Batch, FitError, Inputs, Order, Predict, Shape, Task, derive_seed, shuffled

from .answers import AnswerVotes, best_spans, span_texts
from .files import Question
from .scoring import squad_metrics
from .windows import Windows

LENGTH_MULTIPLE = 16
"""The length of a batch is rounded up to a multiple of this."""
BUCKET_BATCHES = 16
"""Training batches that are drawn together and sorted by length."""
EVALUATION_POSITIONS = 2**13
"""Approximate number of positions in an evaluation batch."""


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


class SquadTask(Task):
    """Predict the span of a context that answers a question, or that there is no answer.

    The output is (B, l, 2): logits of each position to be the start and the end of the answer; the first
    position represents 'no answer'. The loss is the mean of the two cross-entropies over the positions of the
    window (Devlin et al., 2019, section 4.2).

    Args:
        id: see `Task`.
        title: see `Task`.
        train: training questions.
        test: test questions.
        max_length: largest number of tokens in a window, the L of the inputs.
        decoding: options of answer decoding.
    """

    metric = "f1"

    def __init__(
        self, id: str, title: str, train: QuestionSet, test: QuestionSet, max_length: int, decoding: Decoding
    ) -> None:
        self.id, self.title = id, title
        self.inputs = dict.fromkeys(("tokens", "mask", "types"), (max_length,))
        self._train, self._test, self._decoding = train, test, decoding
        self._max_length = max_length
        self._documents: dict[str, str] = {}

    def make_head(self, shape: Shape) -> nn.Module:
        if len(shape) != 2 or shape[0] != self._max_length:
            raise FitError(
                f"env 'squad' needs encodings of shape ({self._max_length}, C), such "
                f"as those of base 'minilm'; the encoding here has shape {tuple(shape)}"
            )
        return SpanHead(shape[1])

    def training_size(self) -> int:
        return len(self._train.windows)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Batches of windows of similar length, see `bucketed`."""
        for indices in bucketed(self._train.windows.lengths, order, self.id):
            yield self._batch(self._train, indices)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        logits = output.float().masked_fill((batch.inputs["mask"] == 0)[..., None], -math.inf)
        start = functional.cross_entropy(logits[..., 0], batch.targets[:, 0], reduction="none")
        end = functional.cross_entropy(logits[..., 1], batch.targets[:, 1], reduction="none")
        return (start + end) / 2

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Exact match and F1 in [0, 1], see `squad_metrics`, and the mean loss over windows in nats."""
        test, decoding = self._test, self._decoding
        votes = [AnswerVotes() for _ in test.questions]
        loss = 0.0
        for indices in _by_length(test.windows.lengths):
            batch = self._batch(test, indices)
            logits = predict(batch.inputs).cpu()
            loss += float(self.loss(logits, batch).sum())
            self._vote(test, indices, logits, votes)
        questions = [question for question, _ in test.questions]
        by_id = {question.id: vote for question, vote in zip(questions, votes, strict=True)}
        nullable = decoding.null_threshold is not None
        predictions = {id: vote.prediction(decoding.null_threshold) for id, vote in by_id.items()}
        odds = {id: vote.null_odds for id, vote in by_id.items()} if nullable else {}
        best = {id: vote.with_probabilities(decoding.n_best, bool(odds)) for id, vote in by_id.items()}
        self._documents = {
            "predictions.json": _json(predictions),
            "nbest_predictions.json": _json(best),
            **({"null_odds.json": _json(odds)} if odds else {}),
        }
        return {**squad_metrics(questions, predictions, odds), "loss": loss / len(test.windows)}

    def documents(self) -> Mapping[str, str]:
        """``predictions.json``, ``nbest_predictions.json``, and ``null_odds.json`` for SQuAD v2.0."""
        return self._documents

    def _batch(self, questions: QuestionSet, indices: Tensor) -> Batch:
        windows = questions.windows
        ends, lengths = windows.ends[indices], windows.lengths[indices]
        rounded = -(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        width = min(rounded, self._max_length)
        tensors = {"tokens": _padded(windows.tokens, ends, lengths, width)}
        tensors["mask"] = (torch.arange(width) < lengths[:, None]).to(torch.int8)
        tensors["types"] = _padded(windows.types, ends, lengths, width)
        ids = indices + questions.first_id
        return Batch(ids, Inputs(tensors, ids, lengths), windows.targets[indices])

    def _vote(
        self, questions: QuestionSet, indices: Tensor, logits: Tensor, votes: Sequence[AnswerVotes]
    ) -> None:
        """Add the best spans of a batch of windows to the votes of their questions."""
        windows, decoding = questions.windows, self._decoding
        ends, lengths = windows.ends[indices], windows.lengths[indices]
        width = logits.shape[1]
        can_start = _padded(windows.can_start, ends, lengths, width)
        can_end = _padded(windows.offsets[:, 0] >= 0, ends, lengths, width)
        sums, start, end = best_spans(logits, can_start, can_end, decoding.max_answer_length, decoding.n_best)
        null_scores = logits[:, 0].sum(1).tolist()
        for row, question in enumerate(windows.questions[indices].tolist()):
            vote, context = votes[question], questions.questions[question][1]
            vote.null_score = min(vote.null_score, null_scores[row])
            count = int(sums[row].isfinite().sum())
            offsets = windows.offsets[int(ends[row] - lengths[row]) : int(ends[row])]
            spans = list(zip(start[row, :count].tolist(), end[row, :count].tolist(), strict=True))
            texts = span_texts(context, offsets, spans)
            for text, score in zip(texts, sums[row, :count].tolist(), strict=True):
                vote.add(text, score)


class SpanHead(nn.Module):
    """Start and end logits of each position, in float32: the best candidates are close to each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, l, C) to (B, l, 2)."""
        with torch.autocast(encoding.device.type, enabled=False):
            logits: Tensor = self.linear(encoding.float())
        return logits


def bucketed(lengths: Tensor, order: Order, *names: object) -> Iterator[Tensor]:
    """An endless stream of indices (batch_size,) like that of `shuffled`, in batches of examples of similar
    length.

    The examples of every `BUCKET_BATCHES` batches are sorted by `lengths` (N,) and split again into batches,
    which come in random order. Both depend on (order.seed, names, step) only.
    """
    bucket, offset = divmod(order.first_step, BUCKET_BATCHES)
    draws = shuffled(len(lengths), Order(order.seed, order.batch_size * BUCKET_BATCHES, bucket), *names)
    for drawn in draws:
        batches = drawn[lengths[drawn].argsort(stable=True)].view(BUCKET_BATCHES, order.batch_size)
        generator = torch.Generator().manual_seed(derive_seed(order.seed, "buckets", *names, bucket))
        for index in torch.randperm(BUCKET_BATCHES, generator=generator).tolist()[offset:]:
            yield batches[index]
        bucket, offset = bucket + 1, 0


def _by_length(lengths: Tensor) -> Iterator[Tensor]:
    """All indices once, longest first, in batches of about `EVALUATION_POSITIONS` positions."""
    rest = lengths.argsort(descending=True, stable=True)
    while len(rest):
        size = max(1, EVALUATION_POSITIONS // int(lengths[rest[0]]))
        yield rest[:size]
        rest = rest[size:]


def _padded(values: Tensor, ends: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Slices of (positions,) that end at `ends` (B,), as (B, width) padded with zeros."""
    rows = [values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    padded = pad_sequence(rows, batch_first=True)
    return functional.pad(padded, (0, width - padded.shape[1]))


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=4, ensure_ascii=False) + "\n"
