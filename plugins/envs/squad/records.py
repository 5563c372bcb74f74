"""Questions with their contexts and answers."""

from __future__ import annotations

import attrs


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
