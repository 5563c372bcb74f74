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

from .answers import AnswerVotes, best_spans, texts_of
from .files import Question
from .scoring import figures
from .windows import Windows

MULTIPLE = 16
"""What the length of a batch is rounded up to."""
BUCKET = 16
"""Batches of training that are drawn together and sorted by length."""
EVALUATION_POSITIONS = 2**13
"""Positions of a batch in evaluation, about."""


@attrs.frozen(eq=False)
class QuestionSet:
    """Questions with their contexts, and the windows that they were cut into; `first_id` is the id of the first window."""

    questions: Sequence[tuple[Question, str]]
    windows: Windows
    first_id: int


@attrs.frozen
class Decoding:
    """How answers come about."""

    longest: int
    """Most tokens of an answer."""
    count: int
    """Answers that are written for each question."""
    threshold: float | None
    """Of the null odds, above which there is no answer; None where every question has one."""


class SquadTask(Task):
    """Find the stretch of a context that answers a question, or say that there is none.

    A network's output is (B, l, 2): for each position the scores of being the first and the last of the answer; the first position stands
    for 'no answer'. The loss is the mean of the two cross-entropies over the positions of the window (Devlin et al., 2019, section 4.2).

    Args:
        id: see `Task`.
        title: see `Task`.
        train: what is learnt from.
        test: what `evaluate` asks.
        window: most tokens of a window, the L of its inputs.
        decoding: how answers come about in evaluation.
    """

    metric = "f1"

    def __init__(
        self, id: str, title: str, train: QuestionSet, test: QuestionSet, window: int, decoding: Decoding
    ) -> None:
        self.id, self.title = id, title
        self.inputs = {"tokens": (window,), "mask": (window,), "types": (window,)}
        self._train, self._test, self._window, self._decoding = train, test, window, decoding
        self._documents: dict[str, str] = {}

    def make_head(self, shape: Shape) -> nn.Module:
        if len(shape) != 2 or shape[0] != self._window:
            raise FitError(
                f"env 'squad' needs a base that encodes as ({self._window}, C), such as minilm; this one gives {tuple(shape)}"
            )
        return SpanHead(shape[1])

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(len(self._train.windows) / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Windows of like length come together: of each sixteen batches' worth, sorted by length, in an order of their own."""
        for places in bucketed(self._train.windows.lengths, order, self.id):
            yield self._batch(self._train, places)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        scores = output.float().masked_fill((batch.inputs["mask"] == 0)[..., None], -math.inf)
        first, last = (
            functional.cross_entropy(scores[..., k], batch.targets[:, k], reduction="none") for k in (0, 1)
        )
        return (first + last) / 2

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Exact match and F1 in [0, 1], see `figures`, and the mean loss over windows in nats."""
        asked, decoding = self._test, self._decoding
        ballots = [AnswerVotes() for _ in asked.questions]
        loss = 0.0
        for places in _by_length(asked.windows.lengths):
            batch = self._batch(asked, places)
            scores = predict(batch.inputs).cpu()
            loss += float(self.loss(scores, batch).sum())
            self._count(asked, places, scores, ballots)
        questions = [question for question, _ in asked.questions]
        named = {question.id: ballot for question, ballot in zip(questions, ballots, strict=True)}
        predictions = {name: ballot.prediction(decoding.threshold) for name, ballot in named.items()}
        odds = (
            {name: ballot.null_odds for name, ballot in named.items()}
            if decoding.threshold is not None
            else {}
        )
        best = {name: ballot.with_probabilities(decoding.count, bool(odds)) for name, ballot in named.items()}
        self._documents = {
            "predictions.json": _json(predictions),
            "nbest_predictions.json": _json(best),
            **({"null_odds.json": _json(odds)} if odds else {}),
        }
        return {**figures(questions, predictions, odds), "loss": loss / len(asked.windows)}

    def documents(self) -> Mapping[str, str]:
        """``predictions.json``, ``nbest_predictions.json``, and, where questions may have no answer, ``null_odds.json``."""
        return self._documents

    def _batch(self, asked: QuestionSet, places: Tensor) -> Batch:
        windows = asked.windows
        lengths = windows.lengths[places]
        width = min(-(-int(lengths.max()) // MULTIPLE) * MULTIPLE, self._window)
        tensors = {"tokens": _padded(windows.tokens, windows.ends[places], lengths, width)}
        tensors["mask"] = (torch.arange(width) < lengths[:, None]).to(torch.int8)
        tensors["types"] = _padded(windows.types, windows.ends[places], lengths, width)
        ids = places + asked.first_id
        return Batch(ids, Inputs(tensors, ids, lengths), windows.targets[places])

    def _count(
        self, asked: QuestionSet, places: Tensor, scores: Tensor, ballots: Sequence[AnswerVotes]
    ) -> None:
        """Add what some windows say to the ballots of their questions."""
        windows = asked.windows
        ends, lengths = windows.ends[places], windows.lengths[places]
        width = scores.shape[1]
        begins = _padded(windows.begins, ends, lengths, width)
        inside = _padded(windows.offsets[:, 0] >= 0, ends, lengths, width)
        sums, first, last = best_spans(scores, begins, inside, self._decoding.longest, self._decoding.count)
        none = scores[:, 0].sum(1).tolist()
        for row, place in enumerate(windows.questions[places].tolist()):
            ballot, context = ballots[place], asked.questions[place][1]
            ballot.none = min(ballot.none, none[row])
            found = int(sums[row].isfinite().sum())
            offsets = windows.offsets[int(ends[row] - lengths[row]) : int(ends[row])]
            spans = list(zip(first[row, :found].tolist(), last[row, :found].tolist(), strict=True))
            for text, total in zip(
                texts_of(context, offsets, spans), sums[row, :found].tolist(), strict=True
            ):
                ballot.add(text, total)


class SpanHead(nn.Module):
    """The scores of each position of being the first and the last of the answer, in float32: those of good answers lie close together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, l, C) to (B, l, 2)."""
        with torch.autocast(encoding.device.type, enabled=False):
            scores: Tensor = self.linear(encoding.float())
        return scores


def bucketed(lengths: Tensor, order: Order, *names: object) -> Iterator[Tensor]:
    """Indices (batch_size,) without end, as `shuffled` gives them, in batches of examples of like length.

    Of every `BUCKET` batches the examples are sorted by `lengths` (N,) and cut anew; which of these batches comes when is drawn. Both
    depend on (order.seed, names, step) only.
    """
    number, offset = divmod(order.first_step, BUCKET)
    draws = shuffled(len(lengths), Order(order.seed, order.batch_size * BUCKET, number), *names)
    for drawn in draws:
        batches = drawn[lengths[drawn].argsort(stable=True)].view(BUCKET, order.batch_size)
        generator = torch.Generator().manual_seed(derive_seed(order.seed, "buckets", *names, number))
        for place in torch.randperm(BUCKET, generator=generator).tolist()[offset:]:
            yield batches[place]
        number, offset = number + 1, 0


def _by_length(lengths: Tensor) -> Iterator[Tensor]:
    """All indices once, longest first, in batches of about `EVALUATION_POSITIONS` positions."""
    rest = lengths.argsort(descending=True, stable=True)
    while len(rest):
        size = max(1, EVALUATION_POSITIONS // int(lengths[rest[0]]))
        yield rest[:size]
        rest = rest[size:]


def _padded(values: Tensor, ends: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Stretches of (positions,) that end at `ends` (B,), as (B, width) with zeros after their ends."""
    rows = [values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    joined = pad_sequence(rows, batch_first=True)
    return functional.pad(joined, (0, width - joined.shape[1]))


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=4, ensure_ascii=False) + "\n"
