"""Texts of the ``datasets`` library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import attrs
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sidetune_core.api import (
    Classification,
    DataError,
    Outputs,
    TaskCard,
    TaskStream,
    at_least,
    at_most,
    class_weights,
    more_than,
    option,
)

from ..classification.labelled import stratified_mask
from ..classification.partition import divide
from ..classification.stream import check_options
from ..images.task_ids import task_ids
from ..squad.tokenizer import MINILM, SavedTokenizer, load_tokenizer
from .columns import (
    LABEL_NAMES,
    TEXT_NAMES,
    choose_column,
    is_class_label,
    is_text,
    read_columns,
    read_labels,
)
from .load import OpenedSet, check_named, left_out, open_sets
from .text_task import TextHandler, TextTask
from .tokens import Text, TextSource, TokenizedTexts, tokenize

SPLIT_SEED = 0
"""Of the held-out test split: independent of the run's seed, so that all runs share it."""


@attrs.frozen(eq=False)
class TextSet:
    """A data set of labelled texts, by split."""

    name: str
    classes: tuple[str, ...]
    texts: Mapping[str, Sequence[Text]]
    labels: Mapping[str, Tensor]


class HFText(TaskStream):
    """Texts of the Hugging Face ``datasets`` library with a class each.

    Inputs are ``tokens``, ``mask`` and ``types`` (length,); a batch is padded to its longest text. A data set
    is a name on the Hub or a local folder: one that ``save_to_disk`` has written, or files of csv, jsonl or
    parquet. It is one task, or several of some classes each (``--env.classes-per-task``); several in a row
    are a task each. Columns of texts and labels are found by their types and usual names
    (``--env.columns``). The head reads the encoding of the first token. Splits are those of the data set;
    where there is no labelled test split, a fifth of each class is held out, the same texts for every seed.
    """

    @attrs.frozen
    class Config:
        """Options of the env; `dataset` is required."""

        dataset: tuple[str, ...] = option(
            (), "one or several data sets: names on the Hugging Face Hub, or folders or files"
        )
        subset: str | None = option(None, "subset (configuration) of the data set, where it has several")
        columns: tuple[str, ...] = option(
            (),
            "columns, such as 'text=sentence label=topic', with 'pair=hypothesis' for a second text; by "
            "default text and label are found by type and name",
        )
        classes_per_task: int | None = option(
            None, "classes per task, of which the last task has the rest; all by default", at_least(1)
        )
        tasks: str | None = option(
            None,
            "classes of each task in their order, such as 'sports,politics|science', or a file with a task "
            "per line (.json: a list of lists); other classes are not used",
        )
        partition: Literal["consecutive", "random"] = option(
            "consecutive",
            "assignment of classes to tasks: in the order of their labels, or at random by the run's seed",
        )
        num_tasks: int | None = option(
            None, "use only the first tasks of the stream; all of them if there are fewer", at_least(1)
        )
        tokenizer: str = option(
            MINILM,
            "'minilm', a folder, or a name on the Hugging Face hub; must be the tokenizer of the base's "
            "pretraining",
        )
        max_length: int = option(
            128, "maximum tokens of a text; longer ones are cut at their end", at_least(8)
        )
        test_fraction: float = option(
            0.2,
            "fraction of each class held out as the test split if there is none; the same in every run",
            more_than(0),
            at_most(0.9),
        )
        val_fraction: float = option(
            0.0,
            "fraction of each class's training texts held out as split 'val', drawn by the run's seed",
            at_least(0),
            at_most(0.9),
        )
        class_weights: Literal["none", "balanced"] = option(
            "none",
            "weights of the classes in the training loss: none, or balanced, inversely proportional to their "
            "numbers of training texts",
        )
        sampling: Literal["uniform", "balanced"] = option(
            "uniform",
            "training batches: uniform, each text once in an epoch, or balanced, each class equally often, "
            "with replacement",
        )

    shared_ids = True  # an id is a text, in whatever task its class is
    recipe = {
        "epochs": 3.0,
        "batch_size": 32,
        "lr": 5e-5,
        "optimizer": "adamw",
        "schedule": "linear",
        "warmup": 0.1,
    }
    default_components = {"base": "minilm", "side": "ladder-text"}

    def __init__(self, config: Config, seed: int) -> None:
        check_named(config.dataset, "hf-text", "fancyzhx/ag_news")
        check_options(config.tasks, config.classes_per_task, config.class_weights, config.sampling)
        self.inputs = dict.fromkeys(("tokens", "mask", "types"), (config.max_length,))
        self._config, self._seed = config, seed
        self._columns = read_columns(config.columns, ("text", "pair", "label"))
        self._digest, self._data_digest, self._content = hashlib.sha256(), hashlib.sha256(), ""

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens of the tokenizer."""
        return len(self._tokenizer)

    @classmethod
    def handler(cls, card: TaskCard) -> TextHandler:
        return TextHandler(card)

    def tasks(self) -> Sequence[TextTask]:
        """All tasks, with a line on what was read."""
        config = self._config
        sets = [self._read(opened) for opened in open_sets(config.dataset, config.subset)]
        self._digest, self._data_digest = hashlib.sha256(), hashlib.sha256()
        self._content = _content(sets)
        sets = [self._with_splits(given) for given in sets]
        ids = task_ids([given.name for given in sets])
        tasks: list[TextTask] = []
        counts: dict[str, int] = {}
        truncated = next_id = 0
        for id, given in zip(ids, sets, strict=True):
            texts = {
                split: tokenize(self._tokenizer, of_split, config.max_length)
                for split, of_split in given.texts.items()
            }
            first_ids = {}
            for split, tokenized in texts.items():
                first_ids[split], next_id = next_id, next_id + len(tokenized)
                counts[split] = counts.get(split, 0) + len(tokenized)
                truncated += tokenized.truncated
                self._add_to_digests(given, split, tokenized)
            tasks += self._tasks(id if len(sets) > 1 else "", given, texts, first_ids)
        tasks = tasks[: config.num_tasks]
        listed = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        classes = sum(task.outputs.size or 0 for task in tasks)
        self.info(
            f"{sum(counts.values()):,} texts of {classes} classes in {len(tasks)} "
            f"{'task' if len(tasks) == 1 else 'tasks'} ({listed})"
            + (f"; {truncated:,} cut to {config.max_length} tokens" if truncated else "")
        )
        return tasks

    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    def data_fingerprint(self) -> str:
        """Of the tokens, the classes and the splits."""
        return self._data_digest.hexdigest()

    def content_fingerprint(self) -> str:
        """Of the texts and classes as they were read, before the run's seed holds out any."""
        return self._content

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._config.tokenizer)

    def _read(self, opened: OpenedSet) -> TextSet:
        text = choose_column(opened, "text", self._columns, is_text, TEXT_NAMES)
        label = choose_column(opened, "label", self._columns, is_class_label, LABEL_NAMES)
        columns = [text]
        if "pair" in self._columns:
            columns.append(choose_column(opened, "pair", self._columns, is_text, ()))
        labels = read_labels(opened, label)
        if note := left_out(opened, labels.notes):
            self.info(note)
        texts = {}
        for split, rows in labels.rows.items():
            dataset = opened.splits[split].select_columns(columns).select(rows.tolist())
            texts[split] = _texts(opened.name, split, [list(dataset[name]) for name in columns], columns)
        return TextSet(opened.name, labels.classes, texts, labels.labels)

    def _with_splits(self, given: TextSet) -> TextSet:
        """With ``test``, and with ``val`` if it is asked for."""
        config = self._config
        if config.val_fraction and "val" in given.texts:
            raise DataError(f"{given.name} has a split 'val' of its own; leave out --env.val-fraction")
        if "test" not in given.texts:
            self.info(f"{given.name}: {100 * config.test_fraction:.3g} % of each class held out for testing")
            given = _hold_out(given, "test", config.test_fraction, SPLIT_SEED)
        if config.val_fraction:
            given = _hold_out(given, "val", config.val_fraction, self._seed)
        return given

    def _tasks(
        self,
        id: str,
        given: TextSet,
        texts: Mapping[str, TokenizedTexts],
        first_ids: Mapping[str, int],
    ) -> list[TextTask]:
        """The tasks of a data set."""
        config = self._config
        partition = divide(given.classes, config.tasks, config.classes_per_task, config.partition, self._seed)
        if partition.note:
            self.info(f"{given.name}: {partition.note}")
        tasks = []
        for index, classes in enumerate(partition.tasks):
            number = torch.full((len(given.classes),), -1)
            number[classes] = torch.arange(len(classes))
            sources = {}
            for split, labels in given.labels.items():
                rows = (number[labels] >= 0).nonzero()[:, 0]
                if len(rows) or split != "val":
                    sources[split] = TextSource(
                        texts[split], rows, number[labels[rows]], first_ids[split], config.max_length
                    )
            names = tuple(given.classes[label] for label in classes)
            weights = class_weights(sources["train"].targets(), len(classes), config.class_weights)
            title = ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
            name = f"t{index}"
            if id:
                name = f"{id}-{index}" if len(partition.tasks) > 1 else id
                title = f"{given.name}: {title}" if len(partition.tasks) > 1 else given.name
            task = TextTask(
                name,
                title,
                sources,
                Classification(Outputs("logits", len(classes), names), weights),
                sampling=config.sampling,
            )
            task.tokenizer = self._saved_tokenizer
            task.is_pair = "pair" in self._columns
            tasks.append(task)
        return tasks

    @cached_property
    def _saved_tokenizer(self) -> SavedTokenizer:
        return SavedTokenizer.of(self._config.tokenizer, self._tokenizer)

    def _add_to_digests(self, given: TextSet, split: str, tokenized: TokenizedTexts) -> None:
        for tensor in (tokenized.lengths, tokenized.tokens, tokenized.types):
            self._digest.update(tensor.numpy().tobytes())
            self._data_digest.update(tensor.numpy().tobytes())
        self._data_digest.update(repr((given.name, split, given.classes)).encode())
        self._data_digest.update(given.labels[split].numpy().tobytes())


def _texts(name: str, split: str, columns: Sequence[Sequence[object]], names: Sequence[str]) -> list[Text]:
    """The texts of a split, or its pairs.

    Raises:
        DataError: a value is no text.
    """
    for column, values in zip(names, columns, strict=True):
        if wrong := [row for row, value in enumerate(values) if not isinstance(value, str)]:
            raise DataError(
                f"{name}, split '{split}': {len(wrong):,} of {len(values):,} values of column '{column}' are "
                f"no text (the first is example {wrong[0]}: {values[wrong[0]]!r})"
            )
    texts = [[str(value) for value in values] for values in columns]
    return list(texts[0]) if len(texts) == 1 else list(zip(texts[0], texts[1], strict=True))


def _hold_out(given: TextSet, split: str, fraction: float, seed: int) -> TextSet:
    """With a fraction of each class of ``train`` as another split."""
    labels, texts = given.labels["train"], given.texts["train"]
    mask = stratified_mask(labels, fraction, seed, given.classes, "text")
    parts = {"train": ~mask, split: mask}
    made = {
        name: [text for text, taken in zip(texts, part.tolist(), strict=True) if taken]
        for name, part in parts.items()
    }
    return attrs.evolve(
        given,
        texts={**given.texts, **made},
        labels={**given.labels, **{name: labels[part] for name, part in parts.items()}},
    )


def _content(sets: Sequence[TextSet]) -> str:
    digest = hashlib.sha256()
    for given in sets:
        for split, texts in given.texts.items():
            digest.update(repr((given.name, split, given.classes)).encode())
            digest.update(repr(texts).encode(errors="surrogatepass"))
            digest.update(given.labels[split].numpy().tobytes())
    return digest.hexdigest()
