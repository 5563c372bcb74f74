"""SQuAD: extractive question answering."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import attrs
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import (
    DataError,
    DataPart,
    OptionError,
    Renamed,
    Task,
    TaskCard,
    TaskStream,
    at_least,
    option,
)

from .batches import Decoding, QuestionSet
from .download import fetch_squad
from .faults import OnError
from .files import check_ids, read_squad
from .handler import SquadCard, SquadHandler
from .records import Article, Paragraph, Question
from .task import SquadTask
from .tokenizer import MINILM, SavedTokenizer, load_tokenizer
from .windows import make_windows

TEST_EVERY = 5
"""Without other test data, every n-th paragraph of each article is the test split."""
MIN_QUESTION_LENGTH = 8
"""Tokens of a window that the stride must leave for the question."""


class Squad(TaskStream):
    """Extractive question answering on SQuAD v1.1 and v2.0 (Rajpurkar et al., 2016 and 2018), or on your own
    questions.

    Inputs are ``tokens``, ``mask`` and ``types`` (length,): question and context, split into overlapping
    windows as for BERT (Devlin et al., 2019). A batch is padded to its longest window. The metrics are those
    of the official scorer, as fractions of 1; R holds F1. Questions may be unanswerable if the training file
    contains such questions (v2.0).

    The test split is ``--env.dev-file``, or ``--env.test-articles`` of the training file, or by default every
    fifth paragraph of each article. Options limit the training data as in the original code: to every n-th
    article, the first paragraphs or the first questions. ``--env.num-tasks N`` divides the training and the
    test articles, in their order, into N tasks.

    The run folder keeps the predictions of the latest evaluation in ``documents/``.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            "train": Renamed("train-file"),
            "dev": Renamed("dev-file"),
            "extra": Renamed("extra-train-file"),
            "download-dir": Renamed("root"),
            "answerable": Renamed("answerable-only"),
            "every": Renamed("article-step"),
            "paragraphs": Renamed("max-paragraphs"),
            "questions": Renamed("max-questions"),
            "tasks": Renamed("num-tasks"),
            "window": Renamed("max-length"),
            "stride": Renamed("doc-stride"),
            "longest": Renamed("max-answer-length"),
            "n-best": Renamed("n-best-size"),
            "null-threshold": Renamed("null-score-diff-threshold"),
        }

        train_file: Path | None = option(
            None,
            "training questions in SQuAD's format or as Hugging Face rows: .json, .jsonl, .parquet, or a "
            "folder of the datasets library; downloads SQuAD if not set",
        )
        dev_file: Path | None = option(None, "test questions in any of these formats")
        extra_train_file: Path | None = option(
            None, "additional training questions, appended to those of 'train-file'"
        )
        on_error: OnError = option(
            "raise",
            "faulty questions, such as answers that are not in their context: raise, or leave them out",
        )
        version: Literal["1.1", "2.0"] = option("2.0", "SQuAD version to download if 'train-file' is not set")
        root: Path = option(Path("~/.cache/sidetune/squad"), "folder for the downloaded files")
        answerable_only: bool = option(False, "leave out unanswerable questions; SQuAD v1.1 has none")
        test_articles: tuple[str, ...] = option(
            (), "titles of the articles of 'train-file' held out as the test split"
        )
        article_step: int = option(1, "train on every n-th article only", at_least(1))
        max_paragraphs: int | None = option(
            None, "train on the first paragraphs of each task only, up to this limit", at_least(1)
        )
        max_questions: int | None = option(
            None, "train on the first questions of each task only, up to this limit", at_least(1)
        )
        num_tasks: int = option(
            1, "number of tasks into which the articles are divided, in their order", at_least(1)
        )
        tokenizer: str = option(
            MINILM,
            "'minilm', a folder, or a name on the Hugging Face "
            "hub; must be the tokenizer of the base's pretraining",
        )
        max_length: int = option(
            384, "maximum tokens of a window: question and context together", at_least(16)
        )
        doc_stride: int = option(
            128, "context tokens between the starts of two windows of a long context", at_least(1)
        )
        max_question_length: int | None = option(
            None,
            "truncate questions to this many tokens; default: a question that leaves no room is an error",
            at_least(1),
        )
        max_answer_length: int = option(30, "maximum tokens of a predicted answer", at_least(1))
        n_best_size: int = option(20, "answers to write for each question", at_least(1))
        null_score_diff_threshold: float = option(
            0.0, "predict 'no answer' if its score exceeds that of the best answer by more than this"
        )

    recipe = {
        "epochs": 2.0,
        "batch_size": 16,
        "lr": 3e-5,
        "optimizer": "adamw",
        "schedule": "linear",
        "warmup": 0.1,
    }
    default_components = {"base": "minilm", "side": "ladder-text"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.dev_file is not None and config.test_articles:
            raise OptionError(
                "env 'squad': --env.dev-file and --env.test-articles are "
                "mutually exclusive, and both are given; leave one out"
            )
        if config.train_file is None and config.test_articles:
            raise OptionError(
                "env 'squad': --env.test-articles selects articles "
                "of a training file; pass it with --env.train-file"
            )
        if config.doc_stride > config.max_length - MIN_QUESTION_LENGTH:
            raise OptionError(
                f"env 'squad': a window of {config.max_length} tokens (--env.max-length) has "
                f"no room for a question and a stride of {config.doc_stride} (--env.doc-stride)"
            )
        self.inputs = dict.fromkeys(("tokens", "mask", "types"), (config.max_length,))
        self._config = config
        self._windows = 0
        self._parts: dict[str, DataPart] = {}
        self._digest, self._data_digest = hashlib.sha256(), hashlib.sha256()

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens of the tokenizer."""
        return len(self._tokenizer)

    def tasks(self) -> Sequence[Task]:
        config = self._config
        self._windows, self._digest, self._data_digest = 0, hashlib.sha256(), hashlib.sha256()
        train_articles, test_articles = self._read()
        for name, articles in (("training", train_articles), ("test", test_articles)):
            if len(articles) < config.num_tasks:
                raise DataError(
                    f"env 'squad': {len(articles)} {name} articles, too "
                    f"few for {config.num_tasks} tasks (--env.num-tasks)"
                )
        nullable = any(not question.answers for question, _ in _questions(train_articles))
        decoding = Decoding(
            config.max_answer_length,
            config.n_best_size,
            config.null_score_diff_threshold if nullable else None,
        )
        tokenizer = SavedTokenizer.of(config.tokenizer, self._tokenizer)
        card = SquadCard(config.doc_stride, decoding, tokenizer, config.max_question_length).to_json()
        tasks: list[Task] = []
        divided = zip(
            _divide(train_articles, config.num_tasks), _divide(test_articles, config.num_tasks), strict=True
        )
        for index, (train, test) in enumerate(divided):
            questions = _questions(_first_paragraphs(train, config.max_paragraphs))[: config.max_questions]
            if not questions:
                raise DataError(
                    f"env 'squad': task {index} has no question in its first "
                    f"{config.max_paragraphs} paragraphs (--env.max-paragraphs)"
                )
            train_set = self._question_set(questions, "the training questions", f"t{index}/train")
            test_set = self._question_set(_questions(test), "the test questions", f"t{index}/test")
            tasks.append(
                SquadTask(f"t{index}", _title(train), train_set, test_set, config.max_length, decoding, card)
            )
        return tasks

    @classmethod
    def handler(cls, card: TaskCard) -> SquadHandler:
        return SquadHandler(card)

    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    def data_fingerprint(self) -> str:
        """Of the windows, the questions and their answers."""
        return self._data_digest.hexdigest()

    def data_parts(self) -> Mapping[str, DataPart]:
        """The questions of each task and split."""
        return self._parts

    def _question_set(self, questions: Sequence[tuple[Question, str]], source: str, part: str) -> QuestionSet:
        """Cut questions into windows with the next free ids; `part` is their name in `data_parts`."""
        config = self._config
        windows = make_windows(
            self._tokenizer,
            questions,
            config.max_length,
            config.doc_stride,
            source,
            config.max_question_length,
        )
        first_id, self._windows = self._windows, self._windows + len(windows)
        inputs = windows.fingerprint().encode()
        content = inputs + "".join(repr(question) for question, _ in questions).encode()
        self._digest.update(inputs)
        self._data_digest.update(content)
        self._parts[part] = DataPart(len(questions), hashlib.sha256(content).hexdigest())
        return QuestionSet(questions, windows, first_id)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._config.tokenizer)

    def _file(self, path: Path | None, split: str) -> Path:
        """The user's file, or the published one of this split."""
        if path is not None:
            return path.expanduser()
        return fetch_squad(f"{split}-v{self._config.version}.json", self._config.root)

    def _read(self) -> tuple[list[Article], list[Article]]:
        """The training and the test articles."""
        config = self._config
        path = self._file(config.train_file, "train")
        train = list(read_squad(path, config.on_error))
        if config.test_articles:
            train, test = _split_by_title(train, config.test_articles, path)
        elif config.dev_file is not None or config.train_file is None:
            test = list(read_squad(self._file(config.dev_file, "dev"), config.on_error))
        else:
            train, test = _split_paragraphs(train, path)
        train = train[:: config.article_step]
        if config.extra_train_file is not None:
            train += read_squad(config.extra_train_file.expanduser(), config.on_error)
            check_ids([*train, *test], f"{path} and {config.extra_train_file}")
        if config.answerable_only:
            train, test = _answerable(train), _answerable(test)
            for name, articles in (("training", train), ("test", test)):
                if not _questions(articles):
                    raise DataError(f"{path}: no {name} question has an answer (--env.answerable-only)")
        return train, test


def _split_by_title(
    articles: Sequence[Article], titles: Sequence[str], path: Path
) -> tuple[list[Article], list[Article]]:
    """Training articles, and test articles with these titles."""
    available = {article.title for article in articles}
    if unknown := sorted(set(titles) - available):
        raise DataError(
            f"{path} has no article '{unknown[0]}' (--env.test-articles); "
            f"it has {', '.join(sorted(available)[:20])}"
        )
    if set(titles) == available:
        raise DataError(f"--env.test-articles lists all articles of {path}; leave some for training")
    train = [article for article in articles if article.title not in titles]
    return train, [article for article in articles if article.title in titles]


def _split_paragraphs(articles: Sequence[Article], path: Path) -> tuple[list[Article], list[Article]]:
    """Training and test articles: of each article, every n-th paragraph with questions is for testing."""
    train, test = [], []
    for article in articles:
        paragraphs = [paragraph for paragraph in article.paragraphs if paragraph.questions]
        kept = [paragraph for index, paragraph in enumerate(paragraphs, 1) if index % TEST_EVERY]
        train.append(Article(article.title, tuple(kept)))
        if len(paragraphs) >= TEST_EVERY:
            test.append(Article(article.title, tuple(paragraphs[TEST_EVERY - 1 :: TEST_EVERY])))
    if not test:
        raise DataError(
            f"no article of {path} has {TEST_EVERY} paragraphs, to hold one "
            "out for testing; pass --env.dev-file or --env.test-articles"
        )
    return train, test


def _answerable(articles: Sequence[Article]) -> list[Article]:
    """The articles without unanswerable questions."""

    def select(paragraph: Paragraph) -> Paragraph:
        answerable = tuple(question for question in paragraph.questions if question.answers)
        return attrs.evolve(paragraph, questions=answerable)

    return [attrs.evolve(article, paragraphs=tuple(map(select, article.paragraphs))) for article in articles]


def _divide(articles: Sequence[Article], tasks: int) -> Iterator[list[Article]]:
    """Consecutive slices of nearly equal length."""
    for task in range(tasks):
        yield list(articles[task * len(articles) // tasks : (task + 1) * len(articles) // tasks])


def _first_paragraphs(articles: Sequence[Article], limit: int | None) -> list[Article]:
    """The articles, truncated after `limit` paragraphs in total."""
    remaining = limit if limit is not None else sum(len(article.paragraphs) for article in articles)
    truncated = []
    for article in articles:
        truncated.append(Article(article.title, article.paragraphs[:remaining]))
        remaining -= len(truncated[-1].paragraphs)
    return truncated


def _questions(articles: Sequence[Article]) -> list[tuple[Question, str]]:
    """All questions, each with its context."""
    paragraphs: Iterator[Paragraph] = (paragraph for article in articles for paragraph in article.paragraphs)
    return [(question, paragraph.context) for paragraph in paragraphs for question in paragraph.questions]


def _title(articles: Sequence[Article]) -> str:
    return articles[0].title if len(articles) == 1 else f"{articles[0].title} to {articles[-1].title}"
