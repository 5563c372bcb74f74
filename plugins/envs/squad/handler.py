"""Question answering without its data: raw questions become windows, and outputs become answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import (
    DataError,
    InputError,
    Prediction,
    Preprocessed,
    Shape,
    TaskCard,
    TaskHandler,
)

from .answers import AnswerVotes
from .batches import Decoding, QuestionSet, add_votes, finite, window_inputs
from .files import official_json, read_questions
from .heads import make_span_head
from .raw_files import SUFFIXES
from .records import Question
from .tokenizer import SavedTokenizer
from .windows import make_windows, max_question_length

KEYS = {"question", "context"}
OTHER_KEYS = {"id", "title", "answers", "is_impossible"}
"""Of a question in data sets; an answer is not read."""
EXPECTED = "expected {'question': ..., 'context': ...} or a tuple (question, context)"


@attrs.frozen
class AnswerPrediction:
    """The answer to a question, a span of its context."""

    text: str
    """Empty if there is no answer."""
    probability: float
    """Softmax over the best answers, and 'no answer' where a question may have none."""
    score: float
    """Sum of the logits of its start and end."""
    start: int | None = None
    """Its first character in the context; None if there is no answer."""
    end: int | None = None
    """One past its last character."""
    null_odds: float | None = None
    """Score of 'no answer' minus that of the best answer; None where every question has one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        return f"{self.text or '(no answer)'} {self.probability:.2f}"


@attrs.frozen
class SquadCard:
    """The values of the card of a question answering task."""

    doc_stride: int
    decoding: Decoding
    tokenizer: SavedTokenizer
    max_question_length: int | None = None
    """Tokens to which questions are truncated."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> SquadCard:
        """Check values that a file has.

        Raises:
            ValueError: one is missing or of another type.
        """
        counts = {name: values.get(name) for name in ("doc_stride", "max_answer_length", "n_best")}
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
                raise ValueError(f"its value '{name}' is {value!r}")
        truncated = values.get("max_question_length")
        if truncated is not None and (isinstance(truncated, bool) or not isinstance(truncated, int)):
            raise ValueError(f"its value 'max_question_length' is {truncated!r}")
        threshold = values.get("null_threshold")
        if threshold is not None and not isinstance(threshold, float | int):
            raise ValueError(f"its value 'null_threshold' is {threshold!r}")
        return cls(
            int(values["doc_stride"]),
            Decoding(int(values["max_answer_length"]), int(values["n_best"]), threshold),
            SavedTokenizer.read(values.get("tokenizer")),
            truncated,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; `read` reads them."""
        values = {
            "doc_stride": self.doc_stride,
            **attrs.asdict(self.decoding),
            "tokenizer": attrs.asdict(self.tokenizer),
        }
        if self.max_question_length is not None:  # cards of earlier versions do not have it
            values["max_question_length"] = self.max_question_length
        return values


class SquadHandler(TaskHandler):
    """Answers questions: ``{"question": ..., "context": ...}``, also with an ``id``, or a tuple (question,
    context).

    Raises:
        ValueError: the card has other values than those of a question answering task.
    """

    suffixes = SUFFIXES

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        self._values = SquadCard.read(card.values)
        lengths = {shape for shape in card.inputs.values() if len(shape) == 1}
        if set(card.inputs) != {"tokens", "mask", "types"} or len(lengths) != 1:
            raise ValueError(f"its inputs are {dict(card.inputs)}")
        ((self._max_length,),) = lengths
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time

    def is_batch(self, value: object) -> bool:
        """Whether raw inputs are several questions: a list, or a tuple that is no (question, context)."""
        is_pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)
        return isinstance(value, list | tuple) and not is_pair

    def make_head(self, shape: Shape) -> nn.Module:
        return make_span_head(shape, self._max_length)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        """Windows of the questions with their contexts, as in training; B is their number."""
        if not len(values):
            raise InputError(f"no questions: the batch is empty; {EXPECTED}")
        questions = [
            _question(value, "the input" if len(values) == 1 else f"input {index}", index)
            for index, value in enumerate(values)
        ]
        with self._lock:
            self._check_lengths(questions)
            windows = make_windows(
                self._tokenizer,
                questions,
                self._max_length,
                self._values.doc_stride,
                "the questions",
                self._values.max_question_length,
            )
        inputs = window_inputs(windows, torch.arange(len(windows)), self._max_length, None)
        return Preprocessed(inputs, len(questions), QuestionSet(questions, windows, 0))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """The best answer to each question, from logits (B, l, 2) of its windows."""
        questions: QuestionSet = examples.context
        votes = [AnswerVotes() for _ in questions.questions]
        indices = torch.arange(len(questions.windows))
        # memory grows with the longest answer, which a card may state to be longer than any window
        longest = min(self._values.decoding.max_answer_length, output.shape[1])
        decoding = attrs.evolve(self._values.decoding, max_answer_length=longest)
        add_votes(questions, indices, output.float().cpu(), decoding, votes)
        return [self._answer(vote) for vote in votes]

    def read_file(self, path: Path) -> Iterator[tuple[str, Any]]:
        """The questions of a file by id, in any format that the env reads; answers are not read and may be
        missing.
        """
        try:
            questions = read_questions(path)
        except DataError as error:
            raise InputError(str(error)) from error
        for question, context in questions:
            yield question.id, {"id": question.id, "question": question.text, "context": context}

    def document(self, predictions: Mapping[str, Prediction]) -> str:
        """``predictions.json``, as the official scorer reads it."""
        return official_json({id: str(answer.to_json()["text"]) for id, answer in predictions.items()})

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._values.tokenizer.load()

    def _check_lengths(self, questions: Sequence[tuple[Question, str]]) -> None:
        limit = max_question_length(self._tokenizer, self._max_length, self._values.doc_stride)
        for index, (question, _) in enumerate(questions):
            size = len(self._tokenizer(question.text, add_special_tokens=False)["input_ids"])
            size = min(size, self._values.max_question_length or size)
            if size > limit:
                where = "the input" if len(questions) == 1 else f"input {index}"
                raise InputError(f"{where} has a question of {size} tokens; expected at most {limit}")

    def _answer(self, vote: AnswerVotes) -> AnswerPrediction:
        decoding = self._values.decoding
        nullable = decoding.null_threshold is not None
        text = vote.prediction(decoding.null_threshold)
        candidates = vote.with_probabilities(decoding.n_best, nullable)
        best = next(candidate for candidate in candidates if candidate["text"] == text)
        start = vote.starts[text] if text else None
        return AnswerPrediction(
            text,
            float(best["probability"]),
            float(best["score"]),
            start,
            None if start is None else start + len(text),
            finite(vote.null_odds) if nullable else None,
        )


def _question(value: Any, where: str, index: int) -> tuple[Question, str]:
    """A raw input as a question with its context."""
    if isinstance(value, Mapping):
        if missing := sorted(KEYS - set(value)):
            raise InputError(f"{where} has no {' and no '.join(missing)}; {EXPECTED}")
        if unknown := sorted(map(str, set(value) - KEYS - OTHER_KEYS)):
            raise InputError(f"{where} has the unknown key '{unknown[0]}'; {EXPECTED}")
        question, context = value["question"], value["context"]
    elif isinstance(value, tuple) and len(value) == 2:
        question, context = value
    else:
        raise InputError(f"{where} is of type {type(value).__name__}; {EXPECTED}")
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str):
            raise InputError(f"{where} has a {name} of type {type(text).__name__}, expected text")
        if not text.strip():
            raise InputError(f"{where} has an empty {name}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} has a {name} with invalid Unicode: {error.reason}") from error
    id = value.get("id", index) if isinstance(value, Mapping) else index
    return Question(str(id), question, ()), context
