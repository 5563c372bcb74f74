"""Decoding: from position logits to answer texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional


@attrs.define
class AnswerVotes:
    """Candidate answers of a question over all its windows, with scores, and the score of 'no answer'."""

    answers: dict[str, float] = attrs.field(factory=dict)
    starts: dict[str, int] = attrs.field(factory=dict)
    """Where each candidate begins in the context, in characters."""
    null_score: float = math.inf

    def add(self, text: str, score: float, start: int = 0) -> None:
        """Add a candidate; of equal texts the best score and its `start` are kept."""
        if text and score > self.answers.get(text, -math.inf):
            self.answers[text], self.starts[text] = score, start

    def best(self, count: int) -> list[tuple[str, float]]:
        """The best `count` answers, best first."""
        return sorted(self.answers.items(), key=lambda pair: -pair[1])[:count]

    @property
    def null_odds(self) -> float:
        """Score of 'no answer' minus the score of the best answer."""
        return self.null_score - max(self.answers.values()) if self.answers else 0.0

    def prediction(self, threshold: float | None) -> str:
        """The best answer; empty if `null_odds` exceeds `threshold`, unless that is None."""
        if not self.answers or (threshold is not None and self.null_odds > threshold):
            return ""
        return self.best(1)[0][0]

    def with_probabilities(self, count: int, nullable: bool) -> list[dict[str, str | float]]:
        """The best answers with softmax probabilities; 'no answer' is an empty text, added if `nullable`."""
        candidates = self.best(count)
        if nullable or not self.answers:
            candidates.append(("", self.null_score))
        candidates.sort(key=lambda pair: -pair[1])
        candidates = [(text, score if math.isfinite(score) else 0.0) for text, score in candidates]
        scores = torch.tensor([score for _, score in candidates], dtype=torch.float64)
        probabilities = scores.softmax(0).tolist()
        return [
            {"text": text, "probability": probability, "score": score}
            for (text, score), probability in zip(candidates, probabilities, strict=True)
        ]


def best_spans(
    logits: Tensor, can_start: Tensor, can_end: Tensor, max_length: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The spans with the largest sums of start and end logits.

    Args:
        logits: (B, L, 2), of start and end of the answer.
        can_start: (B, L) bool, positions where an answer may start.
        can_end: (B, L) bool, positions where it may end.
        max_length: largest number of positions in a span.
        count: number of spans to return, if there are as many.

    Returns:
        Sums, start and end positions, each (B, count), best first; sums are -inf for missing spans.
    """
    start_logits = logits[..., 0].masked_fill(~can_start, -math.inf)
    end_logits = logits[..., 1].masked_fill(~can_end, -math.inf)
    padded = functional.pad(end_logits, (0, max_length - 1), value=-math.inf)
    reachable_ends = padded.unfold(1, max_length, 1)  # (B, L, max_length)
    sums = (start_logits[..., None] + reachable_ends).flatten(1)
    best, indices = sums.topk(min(count, sums.shape[1]), dim=1)
    start = indices // max_length
    return best, start, start + indices % max_length


def spans_in_text(context: str, offsets: Tensor, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters of spans (start, end), both inclusive, as half-open ranges without blanks around them;
    `offsets` (L, 2) are character ranges.
    """
    characters, ranges = offsets.tolist(), []
    for start, end in spans:
        first, last = characters[start][0], characters[end][1]
        text = context[first:last]
        first += len(text) - len(text.lstrip())
        ranges.append((first, first + len(text.strip())))
    return ranges
