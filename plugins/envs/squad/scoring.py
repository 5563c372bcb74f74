"""The official SQuAD metrics: exact match and F1, for all, answerable and unanswerable questions."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from .records import Question

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
"""Kana, Chinese characters and Hangul, as ranges in a regular expression."""
CHARACTERS_AND_WORDS = re.compile(f"[{CJK}]|[^\\s{CJK}]+")


@attrs.frozen
class Score:
    """Metrics of one prediction in [0, 1], each the maximum over the reference answers."""

    exact: float
    f1: float


def normalise_answer(text: str) -> str:
    """Lower-case the text, and remove punctuation, articles and repeated spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def score_prediction(question: Question, prediction: str) -> Score:
    """Score a prediction; an empty one predicts that there is no answer."""
    references = [normalise_answer(answer.text) for answer in question.answers]
    references = [reference for reference in references if reference] or [""]
    predicted = normalise_answer(prediction)
    return Score(float(predicted in references), max(_f1(reference, predicted) for reference in references))


def character_f1(question: Question, prediction: str) -> float:
    """F1 in [0, 1] with each Chinese, Japanese or Korean character as a word; the maximum over references.

    The words of the official F1 are what stands between blanks: in these scripts, nearly whole sentences.
    Other words stay whole, as in the scorer of MLQA (Lewis et al., 2020). Punctuation of all scripts is
    removed.
    """
    references = [_characters(answer.text) for answer in question.answers]
    references = [reference for reference in references if reference] or [""]
    return max(_f1(reference, _characters(prediction)) for reference in references)


def squad_metrics(
    questions: Sequence[Question], predictions: Mapping[str, str], null_odds: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of the official scorer (``evaluate-v2.0.py``), as fractions where that prints percentages.

    Args:
        questions: all questions of a split, at least one.
        predictions: text by question id, empty for no answer.
        null_odds: by id, score of 'no answer' minus that of the best answer; empty if not available.

    Returns:
        ``exact`` and ``f1``; if there are both answerable and unanswerable questions, ``hasans-exact``,
        ``hasans-f1`` and ``noans-exact``; and with `null_odds` ``best-exact`` and ``best-f1``, the values at
        the threshold that is optimal for these questions, with the thresholds ``best-exact-threshold`` and
        ``best-f1-threshold``. Where more than half of the questions have Chinese, Japanese or Korean
        characters, also ``character-f1``, which the official scorer does not have: the mean of
        `character_f1`. All are computed from `predictions` as they are: an empty prediction stays empty.
    """
    scores = {question.id: score_prediction(question, predictions[question.id]) for question in questions}
    answerable = [question.id for question in questions if question.answers]
    unanswerable = [question.id for question in questions if not question.answers]
    metrics = _means("", list(scores.values()))
    if 2 * sum(bool(re.search(f"[{CJK}]", question.text)) for question in questions) > len(questions):
        characters = [character_f1(question, predictions[question.id]) for question in questions]
        metrics["character-f1"] = sum(characters) / len(characters)
    if answerable and unanswerable:
        metrics |= _means("hasans-", [scores[id] for id in answerable])
        metrics["noans-exact"] = _means("", [scores[id] for id in unanswerable])["exact"]
    if null_odds:
        for name in ("exact", "f1"):
            values = {id: getattr(score, name) for id, score in scores.items()}
            best, threshold = _best_threshold(values, predictions, null_odds, set(answerable))
            metrics |= {f"best-{name}": best, f"best-{name}-threshold": threshold}
    return metrics


def _means(prefix: str, scores: Sequence[Score]) -> dict[str, float]:
    return {
        f"{prefix}exact": sum(score.exact for score in scores) / len(scores),
        f"{prefix}f1": sum(score.f1 for score in scores) / len(scores),
    }


def _best_threshold(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    answerable: set[str],
) -> tuple[float, float]:
    """The best mean score over thresholds on `null_odds`, and that threshold.

    Odds above the threshold mean no answer. The threshold is 0 if no answer at all is best.
    """
    total = best = float(len(scores) - len(answerable))  # all questions predicted as unanswerable
    threshold = 0.0
    for id in sorted(null_odds, key=lambda id: null_odds[id]):
        wrong = -1.0 if predictions[id] else 0.0
        total += scores[id] if id in answerable else wrong
        if total > best:
            best, threshold = total, null_odds[id]
    return best / len(scores), threshold


def _characters(text: str) -> str:
    """The normalised text with blanks around each CJK character."""
    kept = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return " ".join(CHARACTERS_AND_WORDS.findall(normalise_answer(kept)))


def _f1(reference: str, predicted: str) -> float:
    """Harmonic mean of precision and recall over words of normalised texts."""
    expected, words = reference.split(), predicted.split()
    if not expected or not words:
        return float(expected == words)
    common = (Counter(expected) & Counter(words)).total()
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(expected)
    return 2 * precision * recall / (precision + recall)
