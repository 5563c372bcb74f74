"""Reader of files of questions, with validation."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from sidetune_core.api import DataError, DataWarning

from .faults import Fault, Faults, OnError
from .layouts import NO_ANSWERS, Layout
from .raw_files import load_entries
from .records import Answer, Article, Paragraph, Question

MAX_SHIFT = 20
"""Characters by which an answer may be away from its offset."""
REMEDY = "Correct the file, or leave out what is faulty with --env.on-error skip"


def read_squad(path: Path, on_error: OnError = "raise") -> tuple[Article, ...]:
    """Read the articles of a file: SQuAD v1.1 or v2.0, or Hugging Face rows, see `load_entries`.

    An answer that is not at its offset, but within `MAX_SHIFT` characters of it, is moved there, with a
    warning.

    Args:
        path: the file, or a folder that ``Dataset.save_to_disk`` has written.
        on_error: raise an error for faulty questions, or leave them out with a warning.

    Raises:
        DataError: the file is missing, damaged or of another layout; no question is left; or `on_error` is
            'raise' and an article has no questions, answers contradict ``is_impossible``, a question id is
            repeated, or an answer is not in its context.
    """
    entries = load_entries(path)
    if not entries:
        raise DataError(f"{path} has no articles")
    faults = Faults(path)
    articles = Layout(faults, path.stem, has_answers=True).articles(entries)
    articles = _without_repeated(articles, faults)
    articles = _aligned(articles, faults)
    asked = sum(len(paragraph.questions) for article in articles for paragraph in article.paragraphs)
    if not asked and all(message.endswith(NO_ANSWERS) for message in faults.messages):
        raise DataError(
            f"{path}: none of its {len(faults.messages)} questions has 'answers'. To answer them with "
            f"a trained run: sidetune predict RUN {path} --out predictions.json"
        )
    faults.report(on_error, REMEDY)
    if not asked:
        raise DataError(f"{path} has no question that can be used")
    return tuple(article for article in articles if any(part.questions for part in article.paragraphs))


def read_questions(path: Path) -> list[tuple[Question, str]]:
    """The questions of a file with their contexts, to be answered: answers are not read, and may be missing.

    Raises:
        DataError: the file is missing, damaged or of another layout, or a question cannot be used.
    """
    faults = Faults(path)
    articles = Layout(faults, path.stem, has_answers=False).articles(load_entries(path))
    articles = _without_repeated(articles, faults)
    faults.report("raise", "Correct the file")
    paragraphs = [paragraph for article in articles for paragraph in article.paragraphs]
    questions = [
        (question, paragraph.context) for paragraph in paragraphs for question in paragraph.questions
    ]
    if not questions:
        raise DataError(f"{path} has no questions")
    return questions


def check_ids(articles: Sequence[Article], source: str) -> None:
    """Check that question ids are unique.

    Raises:
        DataError: an id is repeated.
    """
    if repeated := _repeated(articles):
        raise DataError(f"{source}: repeated question ids: {len(repeated)}, such as '{repeated[0]}'")


def _repeated(articles: Sequence[Article]) -> list[str]:
    """Ids of all questions whose id an earlier one has."""
    seen: set[str] = set()
    repeated = []
    for article in articles:
        for paragraph in article.paragraphs:
            for question in paragraph.questions:
                if question.id in seen:
                    repeated.append(question.id)
                seen.add(question.id)
    return repeated


def _without_repeated(articles: Sequence[Article], faults: Faults) -> list[Article]:
    """The articles with the first question of each id."""
    repeated = _repeated(articles)
    if not repeated:
        return list(articles)
    faults.messages.append(f"repeated question ids: {len(repeated)}, such as '{repeated[0]}'")
    seen: set[str] = set()

    def is_first(question: Question) -> bool:
        known = question.id in seen
        seen.add(question.id)
        return not known

    return _mapped(articles, lambda paragraph: tuple(filter(is_first, paragraph.questions)))


def _aligned(articles: Sequence[Article], faults: Faults) -> list[Article]:
    """The articles with every answer at its offset; questions whose answers are elsewhere are faults."""
    count, moved, shift = 0, [], 0

    def align(paragraph: Paragraph) -> tuple[Question, ...]:
        nonlocal count, shift
        kept = []
        for question in paragraph.questions:
            count += len(question.answers)
            aligned = faults.attempt(_align, question, paragraph.context)
            if aligned is None:
                continue
            kept.append(aligned)
            for before, after in zip(question.answers, aligned.answers, strict=True):
                if before.start != after.start:
                    shift = max(shift, abs(before.start - after.start))
                    moved.append(
                        f"question {question.id}: {_short(before.text)} from {before.start} to {after.start}"
                    )
        return tuple(kept)

    result = _mapped(articles, align)
    if moved:
        warnings.warn(
            f"{faults.path}: {len(moved)} of {count} answers are not at their answer_start, but up to "
            f"{shift} characters away, and are moved there, such as {moved[0]}",
            DataWarning,
            stacklevel=3,
        )
    return result


def _align(question: Question, context: str) -> Question:
    """The question with its answers where their texts are.

    Raises:
        Fault: a text is empty, or not near its offset.
    """
    answers = []
    for answer in question.answers:
        if not answer.text.strip():
            raise Fault(f"question {question.id}: the text of an answer is empty")
        start = _nearest(answer, context)
        if start is None:
            found = context[max(answer.start, 0) : max(answer.start, 0) + max(len(answer.text), 1)]
            raise Fault(
                f"question {question.id}: the answer {_short(answer.text)} does not match the context at its "
                f"answer_start {answer.start} or within {MAX_SHIFT} characters of it; found {_short(found)}"
            )
        answers.append(answer if start == answer.start else Answer(answer.text, start))
    return attrs.evolve(question, answers=tuple(answers))


def _nearest(answer: Answer, context: str) -> int | None:
    """The start of the answer's text nearest to its offset; None if none is near, or two are equally near."""
    text, start = answer.text, answer.start
    if not text:
        return None
    if start >= 0 and context.startswith(text, start):
        return start
    if start < -MAX_SHIFT:
        return None
    before = context.rfind(text, max(0, start - MAX_SHIFT), max(0, start + len(text)))
    after = context.find(text, max(0, start), start + MAX_SHIFT + len(text))
    near = [found for found in (before, after) if found >= 0]
    if len(near) == 2 and start - before == after - start:
        return None
    return min(near, key=lambda found: abs(found - start)) if near else None


def _mapped(
    articles: Sequence[Article], questions: Callable[[Paragraph], tuple[Question, ...]]
) -> list[Article]:
    """The articles with other questions in each paragraph."""
    return [
        Article(
            article.title, tuple(attrs.evolve(part, questions=questions(part)) for part in article.paragraphs)
        )
        for article in articles
    ]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def official_json(values: Mapping[str, object]) -> str:
    """Values by question id, as the official programs write and read them."""
    return json.dumps(values, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
