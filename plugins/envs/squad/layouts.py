"""From plain values to questions: SQuAD's articles, and rows of the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from .faults import Fault, Faults
from .raw_files import kind
from .records import Answer, Article, Paragraph, Question

T = TypeVar("T", str, list[Any], dict[str, Any])
NO_ANSWERS = "missing key 'answers'"
"""Fault of a question that is not known to be unanswerable."""
NAMES = {str: "text", list: "a list", dict: "an object"}


@attrs.frozen
class Layout:
    """How the values of a file become articles.

    Args:
        faults: collects what cannot be used.
        title: of rows without one.
        has_answers: whether answers are read; otherwise questions have none.
    """

    faults: Faults
    title: str
    has_answers: bool

    def articles(self, entries: Sequence[Any]) -> list[Article]:
        """Articles ``{title, paragraphs: [{context, qas}]}``, or rows ``{id, title, context, question,
        answers}``; rows of one title are an article, those of one context a paragraph, in order of their
        first row.
        """
        articles = []
        rows: dict[str, dict[str, list[Question]]] = {}
        for index, values in enumerate(entries):
            if isinstance(values, Mapping) and "paragraphs" not in values and "context" in values:
                self.faults.attempt(self._row, values, index, rows)
            else:
                article = self.faults.attempt(self._article, values, index)
                articles += [article] if article is not None else []
        for title, contexts in rows.items():
            paragraphs = [Paragraph(context, tuple(asked)) for context, asked in contexts.items()]
            articles.append(Article(title, tuple(paragraphs)))
        return articles

    def _article(self, values: Any, index: int) -> Article | None:
        where = f"article {index}"
        values = _object(values, where)
        title = _take(values, "title", str, where) if "title" in values else where
        where = f"{where} '{title}'"
        entries = _take(values, "paragraphs", list, where)
        paragraphs = []
        is_empty = True
        for number, entry in enumerate(entries):
            paragraph = self.faults.attempt(self._paragraph, entry, f"{where}, paragraph {number}")
            if paragraph is not None:
                paragraphs.append(paragraph)
            is_empty = is_empty and isinstance(entry, Mapping) and not entry.get("qas", True)
        if self.has_answers and is_empty:
            raise Fault(f"{where} has no questions")
        return Article(title, tuple(paragraphs))

    def _paragraph(self, values: Any, where: str) -> Paragraph:
        values = _object(values, where)
        context = _context(values, where)
        questions = []
        for index, entry in enumerate(_take(values, "qas", list, where)):
            question = self.faults.attempt(self._question, entry, f"{where}, question {index}", False)
            questions += [question] if question is not None else []
        return Paragraph(context, tuple(questions))

    def _row(self, values: Mapping[str, Any], index: int, rows: dict[str, dict[str, list[Question]]]) -> None:
        """Add the question of a row to its article."""
        where = f"row {index}"
        context = _context(values, where)
        given = values if values.get("id") is not None else {**values, "id": index}
        question = self._question(given, where, is_row=True)
        title = self.title if values.get("title") is None else _take(values, "title", str, where)
        rows.setdefault(title, {}).setdefault(context, []).append(question)

    def _question(self, values: Any, where: str, is_row: bool) -> Question:
        values = _object(values, where)
        id = _id(values, where)
        where = f"{where} '{id}'"
        text = _take(values, "question", str, where)
        if not text.strip():
            raise Fault(f"{where} has no text")
        if not self.has_answers:
            return Question(id, text, ())
        impossible = _impossible(values, where)
        given = values.get("answers")
        if given is None:
            if not impossible:
                raise Fault(f"{where}: {NO_ANSWERS}")
            given = []
        answers = _answers(given, where)
        if impossible is None:
            # rows of squad_v2 mark unanswerable questions by nothing else
            impossible = is_row and not answers
        if impossible == bool(answers):
            fault = "has answers, but is_impossible is set"
            if not impossible:
                fault = "has no answers, but is_impossible is not set"
            raise Fault(f"{where} {fault}")
        return Question(id, text, answers)


def _context(values: Mapping[str, Any], where: str) -> str:
    context = _take(values, "context", str, where)
    if not context.strip():
        raise Fault(f"{where} has an empty context")
    return context


def _id(values: Mapping[str, Any], where: str) -> str:
    """The id, whole numbers as text."""
    value = values.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _take(values, "id", str, where)


def _impossible(values: Mapping[str, Any], where: str) -> bool | None:
    value = values.get("is_impossible")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise Fault(f"{where}: 'is_impossible' must be true, false, 0 or 1, not {_shown(value)}")


def _answers(given: Any, where: str) -> tuple[Answer, ...]:
    """A list of ``{text, answer_start}``, or an object of two lists as in the Hugging Face layout."""
    if isinstance(given, Mapping):
        texts, starts = (_take(given, name, list, where) for name in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise Fault(f"{where}: {len(texts)} answers 'text', but {len(starts)} 'answer_start'")
        pairs = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    elif isinstance(given, list):
        pairs = given
    else:
        raise Fault(f"{where}: 'answers' must be a list, not {kind(given)}")
    return tuple(_answer(pair, where) for pair in pairs)


def _answer(values: Any, where: str) -> Answer:
    values = _object(values, f"{where}, an answer")
    text = _take(values, "text", str, where)
    if "answer_start" not in values:
        raise Fault(f"{where}: missing key 'answer_start'")
    start = values["answer_start"]
    if isinstance(start, float) and start.is_integer():  # as pandas writes a column with gaps
        start = int(start)
    if isinstance(start, bool) or not isinstance(start, int):
        raise Fault(f"{where}: 'answer_start' must be an integer, not {_shown(start)}")
    return Answer(text, start)


def _object(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise Fault(f"{where}: expected an object, not {kind(values)}")
    return values


def _take(values: Mapping[str, Any], name: str, type: type[T], where: str) -> T:
    """The value of a key, checked for its type."""
    if name not in values:
        raise Fault(f"{where}: missing key '{name}'")
    value = values[name]
    if not isinstance(value, type):
        raise Fault(f"{where}: '{name}' must be {NAMES[type]}, not {kind(value)}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # an unpaired surrogate, which JSON allows
            raise Fault(f"{where}: '{name}' holds invalid Unicode: {error.reason}") from error
    return value


def _shown(value: object) -> str:
    """The value where it is short, and its type."""
    return (
        f"{kind(value)} ({value!r})"
        if isinstance(value, str | float) and len(str(value)) < 20
        else kind(value)
    )
