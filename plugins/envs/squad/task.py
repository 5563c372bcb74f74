"""Extractive question answering as a task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Batch, Order, Predict, Shape, Task, derive_seed, shuffled

from .answers import AnswerVotes
from .batches import Decoding, QuestionSet, add_votes, finite, window_inputs
from .files import official_json
from .heads import make_span_head
from .scoring import squad_metrics

BUCKET_BATCHES = 16
"""Training batches that are drawn together and sorted by length."""
EVALUATION_POSITIONS = 2**13
"""Approximate number of positions in an evaluation batch."""


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
        card: the card's values, see `handler.SquadCard`.
    """

    metric = "f1"

    def __init__(
        self,
        id: str,
        title: str,
        train: QuestionSet,
        test: QuestionSet,
        max_length: int,
        decoding: Decoding,
        card: Mapping[str, Any],
    ) -> None:
        self.id, self.title = id, title
        self.inputs = dict.fromkeys(("tokens", "mask", "types"), (max_length,))
        self._train, self._test, self._decoding = train, test, decoding
        self._max_length, self._card = max_length, card
        self._documents: dict[str, str] = {}

    def make_head(self, shape: Shape) -> nn.Module:
        return make_span_head(shape, self._max_length)

    def card(self) -> Mapping[str, Any]:
        return self._card

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
            add_votes(test, indices, logits, decoding, votes)
        questions = [question for question, _ in test.questions]
        by_id = {question.id: vote for question, vote in zip(questions, votes, strict=True)}
        nullable = decoding.null_threshold is not None
        predictions = {id: vote.prediction(decoding.null_threshold) for id, vote in by_id.items()}
        odds = {id: vote.null_odds for id, vote in by_id.items()} if nullable else {}
        best = {id: vote.with_probabilities(decoding.n_best, bool(odds)) for id, vote in by_id.items()}
        self._documents = {
            "predictions.json": official_json(predictions),
            "nbest_predictions.json": official_json(best),
            **(
                {"null_odds.json": official_json({id: finite(value) for id, value in odds.items()})}
                if odds
                else {}
            ),
        }
        return {**squad_metrics(questions, predictions, odds), "loss": loss / len(test.windows)}

    def documents(self) -> Mapping[str, str]:
        """``predictions.json``, ``nbest_predictions.json``, and ``null_odds.json`` for SQuAD v2.0."""
        return self._documents

    def _batch(self, questions: QuestionSet, indices: Tensor) -> Batch:
        ids = indices + questions.first_id
        inputs = window_inputs(questions.windows, indices, self._max_length, ids)
        return Batch(ids, inputs, questions.windows.targets[indices])


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
