"""Questions in the JSON format of SQuAD, v1.1 and v2.0: read and checked."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from sidetune_core.api import DataError

T = TypeVar("T", str, int, bool, list[Any], dict[str, Any])

LARGE, MANY = 2**28, 100
"""A file that unpacks to more bytes than the first and so many times its size is no text, but made to fill memory."""
KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}


@attrs.frozen
class Answer:
    """A stretch of a context: its text, and the character that it begins at."""

    text: str
    start: int


@attrs.frozen
class Question:
    """A question with its reference answers; none where the context has no answer."""

    id: str
    text: str
    answers: tuple[Answer, ...]


@attrs.frozen
class Paragraph:
    """A context and the questions about it."""

    context: str
    questions: tuple[Question, ...]


@attrs.frozen
class Article:
    """Paragraphs under a title."""

    title: str
    paragraphs: tuple[Paragraph, ...]


def read_squad(path: Path) -> tuple[Article, ...]:
    """The articles of a file, ``.json`` or ``.json.gz``.

    Raises:
        DataError: the file is missing or damaged, is not in SQuAD's format, has an article without questions, a question without
            anything to answer it by, two questions of one id, or reference answers that do not stand in the context where they should.
    """
    data = _take(_load(path), "data", list, f"{path}")
    articles = tuple(_article(one, f"{path}: article {number}", number) for number, one in enumerate(data))
    if not articles:
        raise DataError(f"{path} has no articles")
    check_ids(articles, str(path))
    _check_answers(articles, path)
    return articles


def check_ids(articles: Sequence[Article], source: str) -> None:
    """Refuse two questions of one id.

    Raises:
        DataError: there are some.
    """
    seen: set[str] = set()
    twice = []
    for article in articles:
        for paragraph in article.paragraphs:
            for question in paragraph.questions:
                if question.id in seen:
                    twice.append(question.id)
                seen.add(question.id)
    if twice:
        raise DataError(
            f"{source}: {len(twice)} of the ids of questions are not the first of their kind, such as '{twice[0]}'"
        )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"no file {path}; expected questions in SQuAD's JSON format, .json or .json.gz")
    try:
        if path.suffix == ".gz":
            limit = max(LARGE, MANY * path.stat().st_size)
            with gzip.open(path) as file:
                raw = file.read(limit + 1)
            if len(raw) > limit:
                raise DataError(
                    f"{path} unpacks to more than {limit / 2**30:.3g} GiB; unpack it yourself if it is what you want to read"
                )
        else:
            raw = path.read_bytes()
        values = json.loads(raw)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a table with a list 'data' of articles, not {_kind(values)}")
    return values


def _article(values: Any, where: str, number: int) -> Article:
    values = _table(values, where)
    title = _take(values, "title", str, where) if "title" in values else f"article {number}"
    where = f"{where} '{title}'"
    paragraphs = tuple(
        _paragraph(one, f"{where}, paragraph {place}")
        for place, one in enumerate(_take(values, "paragraphs", list, where))
    )
    if not any(paragraph.questions for paragraph in paragraphs):
        raise DataError(f"{where} is empty: it has no questions; take it out of the file")
    return Article(title, paragraphs)


def _paragraph(values: Any, where: str) -> Paragraph:
    values = _table(values, where)
    context = _take(values, "context", str, where)
    if not context.strip():
        raise DataError(f"{where} has an empty context; take it out of the file")
    questions = enumerate(_take(values, "qas", list, where))
    return Paragraph(context, tuple(_question(one, f"{where}, question {place}") for place, one in questions))


def _question(values: Any, where: str) -> Question:
    values = _table(values, where)
    number = _take(values, "id", str, where)
    where = f"{where} '{number}'"
    text = _take(values, "question", str, where)
    if not text.strip():
        raise DataError(f"{where} has no text; take it out of the file")
    answers = tuple(_answer(one, where) for one in _take(values, "answers", list, where))
    impossible = _take(values, "is_impossible", bool, where) if "is_impossible" in values else False
    if impossible == bool(answers):
        wrong = (
            "has answers, and is_impossible is set"
            if impossible
            else "has no answers, and is_impossible is not set"
        )
        raise DataError(f"{where} {wrong}; mend one of them")
    return Question(number, text, answers)


def _answer(values: Any, where: str) -> Answer:
    values = _table(values, f"{where}, an answer")
    return Answer(_take(values, "text", str, where), _take(values, "answer_start", int, where))


def _check_answers(articles: Sequence[Article], path: Path) -> None:
    """Every answer is what the context has from its start on."""
    count, wrong = 0, []
    for article in articles:
        for paragraph in article.paragraphs:
            for question in paragraph.questions:
                for answer in question.answers:
                    count += 1
                    found = (
                        paragraph.context[max(0, answer.start) : answer.start + len(answer.text)]
                        if answer.start >= 0
                        else ""
                    )
                    if not answer.text or found != answer.text:
                        wrong.append((question.id, answer))
    if wrong:
        shown = "; ".join(
            f"question {number}: {_short(answer.text)} at {answer.start}" for number, answer in wrong[:3]
        )
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"{path}: {len(wrong)} of {count} answers do not stand in their context where answer_start says ({shown}{more})"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _table(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a table, not {_kind(values)}")
    return values


def _take(values: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """A value of one kind, by name."""
    if name not in values:
        raise DataError(f"{where} lacks '{name}'")
    value = values[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: '{name}' is {KINDS[kind]}, not {_kind(value)}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a pair of surrogates, which JSON can hold
            raise DataError(f"{where}: '{name}' holds what is no character: {error.reason}") from error
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else KINDS.get(type(value), type(value).__name__)
