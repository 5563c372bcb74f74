"""Reader of SQuAD's JSON format, v1.1 and v2.0, with validation."""

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

MAX_BYTES = 2**30
"""Of a file that is not compressed."""

MAX_UNCHECKED_BYTES = 2**28
"""Files up to this size are unpacked whatever their compression ratio."""
MAX_COMPRESSION_RATIO = 100
"""A larger file with a higher ratio is treated as a decompression bomb."""
TYPE_NAMES = {str: "text", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


@attrs.frozen
class Answer:
    """A span of a context: its text and the offset of its first character."""

    text: str
    start: int


@attrs.frozen
class Question:
    """A question with its reference answers; empty if unanswerable."""

    id: str
    text: str
    answers: tuple[Answer, ...]


@attrs.frozen
class Paragraph:
    """A context with its questions."""

    context: str
    questions: tuple[Question, ...]


@attrs.frozen
class Article:
    """Paragraphs under a title."""

    title: str
    paragraphs: tuple[Paragraph, ...]


def read_squad(path: Path) -> tuple[Article, ...]:
    """Read the articles of a file, ``.json`` or ``.json.gz``.

    Raises:
        DataError: the file is missing, damaged or not in SQuAD's format; an article has no questions; answers
            contradict ``is_impossible``; a question id is repeated; or an answer does not match the context
            at its offset.
    """
    data = _take(_load(path), "data", list, f"{path}")
    articles = tuple(_article(values, f"{path}: article {index}", index) for index, values in enumerate(data))
    if not articles:
        raise DataError(f"{path} has no articles")
    check_ids(articles, str(path))
    _check_answers(articles, path)
    return articles


def read_questions(path: Path) -> list[tuple[Question, str]]:
    """The questions of a file with their contexts, to be answered: answers are not read, and may be missing.

    Raises:
        DataError: the file is missing, damaged or not in SQuAD's format, or a question id is repeated.
    """
    data = _take(_load(path), "data", list, f"{path}")
    articles = [
        _article(values, f"{path}: article {index}", index, has_answers=False)
        for index, values in enumerate(data)
    ]
    check_ids(articles, str(path))
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
    seen: set[str] = set()
    repeated = []
    for article in articles:
        for paragraph in article.paragraphs:
            for question in paragraph.questions:
                if question.id in seen:
                    repeated.append(question.id)
                seen.add(question.id)
    if repeated:
        raise DataError(f"{source}: {len(repeated)} question ids are repeated, such as '{repeated[0]}'")


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"no file {path}; expected questions in SQuAD's JSON format, .json or .json.gz")
    try:
        if path.suffix == ".gz":
            limit = max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION_RATIO * path.stat().st_size)
            with gzip.open(path) as file:
                raw = file.read(limit + 1)
            if len(raw) > limit:
                raise DataError(
                    f"{path} unpacks to more than {limit / 2**30:.3g} "
                    "GiB; decompress it yourself if you trust it"
                )
        else:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES / 2**30:.3g} GiB")
            raw = path.read_bytes()
        values = json.loads(raw)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected an object with a list 'data' of articles, not {_kind(values)}")
    return values


def _article(values: Any, where: str, index: int, has_answers: bool = True) -> Article:
    values = _object(values, where)
    title = _take(values, "title", str, where) if "title" in values else f"article {index}"
    where = f"{where} '{title}'"
    paragraphs = tuple(
        _paragraph(paragraph, f"{where}, paragraph {index}", has_answers)
        for index, paragraph in enumerate(_take(values, "paragraphs", list, where))
    )
    if has_answers and not any(paragraph.questions for paragraph in paragraphs):
        raise DataError(f"{where} has no questions; remove it from the file")
    return Article(title, paragraphs)


def _paragraph(values: Any, where: str, has_answers: bool) -> Paragraph:
    values = _object(values, where)
    context = _take(values, "context", str, where)
    if not context.strip():
        raise DataError(f"{where} has an empty context; remove it from the file")
    questions = tuple(
        _question(question, f"{where}, question {index}", has_answers)
        for index, question in enumerate(_take(values, "qas", list, where))
    )
    return Paragraph(context, questions)


def _question(values: Any, where: str, has_answers: bool) -> Question:
    values = _object(values, where)
    id = _take(values, "id", str, where)
    where = f"{where} '{id}'"
    text = _take(values, "question", str, where)
    if not text.strip():
        raise DataError(f"{where} has no text; remove it from the file")
    if not has_answers:
        return Question(id, text, ())
    answers = tuple(_answer(answer, where) for answer in _take(values, "answers", list, where))
    impossible = _take(values, "is_impossible", bool, where) if "is_impossible" in values else False
    if impossible == bool(answers):
        fault = "has answers, but is_impossible is set"
        if not impossible:
            fault = "has no answers, but is_impossible is not set"
        raise DataError(f"{where} {fault}; correct one of them")
    return Question(id, text, answers)


def _answer(values: Any, where: str) -> Answer:
    values = _object(values, f"{where}, an answer")
    return Answer(_take(values, "text", str, where), _take(values, "answer_start", int, where))


def _check_answers(articles: Sequence[Article], path: Path) -> None:
    """Check that every answer matches the context at its offset."""
    count, wrong = 0, []
    for article in articles:
        for paragraph in article.paragraphs:
            for question in paragraph.questions:
                for answer in question.answers:
                    count += 1
                    matches = answer.start >= 0 and paragraph.context.startswith(answer.text, answer.start)
                    if not answer.text or not matches:
                        wrong.append((question.id, answer))
    if wrong:
        shown = "; ".join(
            f"question {id}: {_short(answer.text)} at {answer.start}" for id, answer in wrong[:3]
        )
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"{path}: {len(wrong)} of {count} answers do not "
            f"match their context at answer_start ({shown}{more})"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _object(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected an object, not {_kind(values)}")
    return values


def _take(values: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """The value of a key, checked for its type."""
    if name not in values:
        raise DataError(f"{where}: missing key '{name}'")
    value = values[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: '{name}' must be {TYPE_NAMES[kind]}, not {_kind(value)}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # an unpaired surrogate, which JSON allows
            raise DataError(f"{where}: '{name}' holds invalid Unicode: {error.reason}") from error
    return value


def _kind(value: object) -> str:
    return "null" if value is None else TYPE_NAMES.get(type(value), type(value).__name__)


def official_json(values: Mapping[str, object]) -> str:
    """Values by question id, as the official programs write and read them."""
    return json.dumps(values, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
