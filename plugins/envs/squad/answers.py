"""From scores of positions to answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional


@attrs.define
class AnswerVotes:
    """What the windows of one question say: the best answers with their scores, and the score of 'no answer'."""

    answers: dict[str, float] = attrs.field(factory=dict)
    none: float = math.inf

    def add(self, text: str, score: float) -> None:
        """Take in an answer; of equal texts the best score stays."""
        if text:
            self.answers[text] = max(score, self.answers.get(text, -math.inf))

    def best(self, count: int) -> list[tuple[str, float]]:
        """The best answers, best first."""
        return sorted(self.answers.items(), key=lambda pair: -pair[1])[:count]

    @property
    def null_odds(self) -> float:
        """How much higher 'no answer' scores than the best answer."""
        return self.none - max(self.answers.values()) if self.answers else 0.0

    def prediction(self, threshold: float | None) -> str:
        """The best answer; none where `null_odds` are above `threshold`, unless that is None."""
        if not self.answers or (threshold is not None and self.null_odds > threshold):
            return ""
        return self.best(1)[0][0]

    def with_probabilities(self, count: int, nullable: bool) -> list[dict[str, str | float]]:
        """The best answers with their shares of a softmax, 'no answer' as an empty text among them where it counts."""
        entries = self.best(count) + ([("", self.none)] if nullable or not self.answers else [])
        entries = [
            (text, score if math.isfinite(score) else 0.0)
            for text, score in sorted(entries, key=lambda pair: -pair[1])
        ]
        shares = torch.tensor([score for _, score in entries], dtype=torch.float64).softmax(0).tolist()
        return [
            {"text": text, "probability": share, "score": score}
            for (text, score), share in zip(entries, shares, strict=True)
        ]


def best_spans(
    scores: Tensor, begins: Tensor, inside: Tensor, longest: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The stretches of positions whose scores of the first and the last one have the largest sums.

    Args:
        scores: (B, L, 2), of being the first and the last position of the answer.
        begins: (B, L) bool, where an answer may begin.
        inside: (B, L) bool, where it may end.
        longest: most positions of a stretch.
        count: how many to find, if there are as many.

    Returns:
        Sums, first and last positions, each (B, count), best first; sums are -inf where there are no more.
    """
    first = scores[..., 0].masked_fill(~begins, -math.inf)
    last = scores[..., 1].masked_fill(~inside, -math.inf)
    ahead = functional.pad(last, (0, longest - 1), value=-math.inf).unfold(
        1, longest, 1
    )  # (B, L, longest): the ends within reach
    sums = (first[..., None] + ahead).flatten(1)
    found, places = sums.topk(min(count, sums.shape[1]), dim=1)
    start = places // longest
    return found, start, start + places % longest


def texts_of(context: str, offsets: Tensor, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The text of each stretch of positions, first and last one included; `offsets` (L, 2) are their characters."""
    places = offsets.tolist()
    return [context[places[first][0] : places[last][1]].strip() for first, last in spans]
