"""SQuAD: find the answer to a question in a text, or say that there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import attrs
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import DataError, OptionError, Task, TaskStream, at_least, option

from .download import fetch_squad
from .files import Article, Paragraph, Question, check_ids, read_squad
from .task import Decoding, QuestionSet, SquadTask
from .tokenizer import MINILM, load_tokenizer
from .windows import make_windows

HELD_OUT = 5
"""Of each article, one paragraph in so many is the test split where nothing else is."""


class Squad(TaskStream):
    """Extractive question answering on SQuAD v1.1 and v2.0 (Rajpurkar et al., 2016 and 2018), or on questions of your own in its format.

    Inputs ``tokens``, ``mask`` and ``types`` (window,): question and context, cut into windows as BERT does (Devlin et al., 2019). A batch
    is padded to its longest window only. Figures are those of the official scorer, as shares of 1; R holds F1. Questions may have no
    answer where the training file has any such (v2.0).

    What is tested: ``--env.dev``, or ``--env.test-articles`` of the training file, or else every fifth paragraph of each article. What is
    learnt may be cut down as the original code does: every so-manieth article, the first paragraphs, or the first questions. With
    ``--env.tasks N`` the articles, in their order, make a stream of N tasks; those that are tested are dealt out likewise.

    The predictions of the latest evaluation are in the run's folder, in ``documents/``.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        train: Path | None = option(
            None,
            "questions to learn from, .json or .json.gz in SQuAD's format; without it SQuAD is downloaded",
        )
        dev: Path | None = option(None, "questions that are tested, in the same format")
        extra: Path | None = option(None, "more questions to learn from, after those of 'train'")
        version: Literal["1.1", "2.0"] = option("2.0", "which SQuAD is downloaded where no 'train' is given")
        download_dir: Path = option(Path("~/.cache/sidetune/squad"), "folder of what is downloaded")
        answerable: bool = option(
            False, "leave out all questions that have no answer, as SQuAD v1.1 has none"
        )
        test_articles: str = option(
            "", "titles of articles of 'train' that are tested and not learnt, with commas between them"
        )
        every: int = option(1, "learn from every so-manieth article only", at_least(1))
        paragraphs: int | None = option(
            None, "learn from the first so many paragraphs of each task only", at_least(1)
        )
        questions: int | None = option(
            None, "learn from the first so many questions of each task only", at_least(1)
        )
        tasks: int = option(1, "tasks that the articles are dealt out to, in their order", at_least(1))
        tokenizer: str = option(
            MINILM,
            "'minilm', or a folder or name on the Hugging Face hub; the one that the base was trained with",
        )
        window: int = option(384, "most tokens of question and context together", at_least(16))
        stride: int = option(
            128, "tokens of a long context from the beginning of one window to that of the next", at_least(1)
        )
        longest: int = option(30, "most tokens of an answer", at_least(1))
        n_best: int = option(20, "answers that are written for each question", at_least(1))
        null_threshold: float = option(
            0.0, "say 'no answer' where it scores higher than the best answer by more than this"
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
        if config.dev is not None and config.test_articles:
            raise OptionError(
                "env 'squad' tests on --env.dev or on --env.test-articles, and both are given; leave one out"
            )
        if config.train is None and config.test_articles:
            raise OptionError(
                "env 'squad': --env.test-articles are articles of a file; give it with --env.train"
            )
        if config.stride > config.window - 8:
            raise OptionError(
                f"env 'squad': a window of {config.window} tokens has no room for a question and a stride of {config.stride}"
            )
        self.inputs = {"tokens": (config.window,), "mask": (config.window,), "types": (config.window,)}
        self._config = config
        self._windows = 0
        self._digest = hashlib.sha256()

    @property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer has."""
        return len(self._tokenizer)

    def tasks(self) -> Sequence[Task]:
        config = self._config
        learnt, tested = self._read()
        for name, articles in (("to learn from", learnt), ("to be tested on", tested)):
            if len(articles) < config.tasks:
                raise DataError(
                    f"env 'squad': there are {len(articles)} articles {name}, too few for {config.tasks} tasks (--env.tasks)"
                )
        nullable = any(not question.answers for article in learnt for question, _ in _asked([article]))
        decoding = Decoding(config.longest, config.n_best, config.null_threshold if nullable else None)
        made: list[Task] = []
        for number, (train, test) in enumerate(
            zip(_dealt(learnt, config.tasks), _dealt(tested, config.tasks), strict=True)
        ):
            few = _asked(_first(train, config.paragraphs))[: config.questions]
            if not few:
                raise DataError(
                    f"env 'squad': task {number} has no question in its first {config.paragraphs} --env.paragraphs"
                )
            asked = [
                self._cut(few, "the questions to learn from"),
                self._cut(_asked(test), "the questions to be tested on"),
            ]
            made.append(SquadTask(f"t{number}", _title(train), asked[0], asked[1], config.window, decoding))
        return made

    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    def _cut(self, questions: Sequence[tuple[Question, str]], what: str) -> QuestionSet:
        """Make windows, numbered after those that there are."""
        windows = make_windows(self._tokenizer, questions, self._config.window, self._config.stride, what)
        first_id, self._windows = self._windows, self._windows + len(windows)
        self._digest.update(windows.fingerprint().encode())
        return QuestionSet(questions, windows, first_id)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._config.tokenizer)

    def _read(self) -> tuple[list[Article], list[Article]]:
        """The articles to learn from and those to be tested on."""
        config = self._config
        path = (
            config.train.expanduser()
            if config.train
            else fetch_squad(f"train-v{config.version}.json", config.download_dir)
        )
        learnt = list(read_squad(path))
        if config.test_articles:
            learnt, tested = _named(learnt, config.test_articles, path)
        elif config.dev is not None or config.train is None:
            dev = (
                config.dev.expanduser()
                if config.dev
                else fetch_squad(f"dev-v{config.version}.json", config.download_dir)
            )
            tested = list(read_squad(dev))
        else:
            learnt, tested = _held_out(learnt, path)
        learnt = learnt[:: config.every]
        if config.extra is not None:
            learnt += read_squad(config.extra.expanduser())
            check_ids([*learnt, *tested], f"{path} and {config.extra}")
        if config.answerable:
            learnt, tested = _answerable(learnt), _answerable(tested)
            if not (_asked(learnt) and _asked(tested)):
                lacking = "to be tested on" if _asked(learnt) else "to learn from"
                raise DataError(f"{path}: no question {lacking} has an answer (--env.answerable)")
        return learnt, tested


def _named(articles: Sequence[Article], titles: str, path: Path) -> tuple[list[Article], list[Article]]:
    """The articles whose title is not among `titles`, and those whose title is."""
    wanted = {title.strip() for title in titles.split(",")}
    known = {article.title for article in articles}
    if lacking := sorted(wanted - known):
        raise DataError(
            f"{path} has no article '{lacking[0]}' (--env.test-articles); it has {', '.join(sorted(known)[:20])}"
        )
    if wanted == known:
        raise DataError(f"--env.test-articles names all articles of {path}, so there is none to learn from")
    return [one for one in articles if one.title not in wanted], [
        one for one in articles if one.title in wanted
    ]


def _held_out(articles: Sequence[Article], path: Path) -> tuple[list[Article], list[Article]]:
    """Every article without every fifth of its paragraphs, and those paragraphs."""
    learnt, tested = [], []
    for article in articles:
        with_questions = [paragraph for paragraph in article.paragraphs if paragraph.questions]
        learnt.append(
            Article(
                article.title, tuple(one for place, one in enumerate(with_questions, 1) if place % HELD_OUT)
            )
        )
        if len(with_questions) >= HELD_OUT:
            tested.append(Article(article.title, tuple(with_questions[HELD_OUT - 1 :: HELD_OUT])))
    if not tested:
        raise DataError(
            f"no article of {path} has {HELD_OUT} paragraphs, of which one could be tested on; give --env.dev or --env.test-articles"
        )
    return learnt, tested


def _answerable(articles: Sequence[Article]) -> list[Article]:
    """The articles with only those questions that have an answer."""

    def cut(paragraph: Paragraph) -> Paragraph:
        return attrs.evolve(
            paragraph, questions=tuple(question for question in paragraph.questions if question.answers)
        )

    return [attrs.evolve(article, paragraphs=tuple(map(cut, article.paragraphs))) for article in articles]


def _dealt(articles: Sequence[Article], tasks: int) -> Iterator[list[Article]]:
    """Stretches of like length."""
    for task in range(tasks):
        yield list(articles[task * len(articles) // tasks : (task + 1) * len(articles) // tasks])


def _first(articles: Sequence[Article], paragraphs: int | None) -> list[Article]:
    """The articles as far as their first paragraphs, counted over all, go."""
    left = paragraphs if paragraphs is not None else sum(len(article.paragraphs) for article in articles)
    kept = []
    for article in articles:
        kept.append(Article(article.title, article.paragraphs[:left]))
        left -= len(kept[-1].paragraphs)
    return kept


def _asked(articles: Sequence[Article]) -> list[tuple[Question, str]]:
    """Every question with its context."""
    paragraphs: Iterator[Paragraph] = (paragraph for article in articles for paragraph in article.paragraphs)
    return [(question, paragraph.context) for paragraph in paragraphs for question in paragraph.questions]


def _title(articles: Sequence[Article]) -> str:
    return articles[0].title if len(articles) == 1 else f"{articles[0].title} to {articles[-1].title}"
