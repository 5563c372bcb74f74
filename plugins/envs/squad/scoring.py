"""The official figures of SQuAD: exact match and F1, over all questions and over those with and without an answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from .files import Question

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@attrs.frozen
class Score:
    """Of one prediction, each in [0, 1]: the better of all references."""

    exact: float
    f1: float


def normalise_answer(text: str) -> str:
    """In lower case, without punctuation and articles, with single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def score(question: Question, prediction: str) -> Score:
    """How good a prediction is; an empty one says that there is no answer."""
    references = [one for one in (normalise_answer(answer.text) for answer in question.answers) if one] or [
        ""
    ]
    given = normalise_answer(prediction)
    return Score(float(given in references), max(_f1(one, given) for one in references))


def figures(
    questions: Sequence[Question], predictions: Mapping[str, str], null_odds: Mapping[str, float]
) -> dict[str, float]:
    """What the official scorer gives (``evaluate-v2.0.py``), each figure in [0, 1] where that has percents.

    Args:
        questions: all of a split; one at least.
        predictions: text by id of the question, empty for no answer.
        null_odds: by id, how much more likely no answer is than the best one; empty where nothing tells.

    Returns:
        ``exact`` and ``f1``; for questions with and without an answer, where there are both, ``hasans-exact``, ``hasans-f1`` and
        ``noans-exact``; and with `null_odds` ``best-exact`` and ``best-f1``, had the best threshold been chosen on these questions, with
        the thresholds ``best-exact-threshold`` and ``best-f1-threshold``. These are taken over `predictions` as they are, so a prediction
        that is empty stays so.
    """
    scores = {question.id: score(question, predictions[question.id]) for question in questions}
    able = [question.id for question in questions if question.answers]
    unable = [question.id for question in questions if not question.answers]
    found = _means("", list(scores.values()))
    if able and unable:
        found |= _means("hasans-", [scores[one] for one in able])
        found["noans-exact"] = _means("", [scores[one] for one in unable])["exact"]
    if null_odds:
        for name in ("exact", "f1"):
            best, threshold = _best(
                {one: getattr(scores[one], name) for one in scores}, predictions, null_odds, set(able)
            )
            found |= {f"best-{name}": best, f"best-{name}-threshold": threshold}
    return found


def _means(prefix: str, scores: Sequence[Score]) -> dict[str, float]:
    return {
        f"{prefix}exact": sum(one.exact for one in scores) / len(scores),
        f"{prefix}f1": sum(one.f1 for one in scores) / len(scores),
    }


def _best(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    able: set[str],
) -> tuple[float, float]:
    """The best mean over thresholds on `null_odds`, above which there is no answer, and that threshold (0 where answering never pays)."""
    total = best = float(len(scores) - len(able))  # no answer to any question
    threshold = 0.0
    for one in sorted(null_odds, key=lambda one: null_odds[one]):
        total += scores[one] if one in able else -1.0 if predictions[one] else 0.0
        if total > best:
            best, threshold = total, null_odds[one]
    return best / len(scores), threshold


def _f1(reference: str, given: str) -> float:
    """Harmonic mean of precision and recall over words, both normalised."""
    expected, words = reference.split(), given.split()
    if not expected or not words:
        return float(expected == words)
    common = (Counter(expected) & Counter(words)).total()
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(expected)
    return 2 * precision * recall / (precision + recall)
