"""The columns of a data set: which of them has the images or texts, and which the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import datasets
import torch
from torch import Tensor

from sidetune_core.api import DataError, OptionError, shorten

from .load import OpenedSet

UNLABELLED = -1
"""What published test splits have as the label of every example, where the labels are kept secret."""

LABEL_NAMES = ("label", "labels", "class", "target", "category")
TEXT_NAMES = ("text", "sentence", "content", "document", "review")


def read_columns(given: Sequence[str], roles: Sequence[str]) -> dict[str, str]:
    """Columns by role, from words such as ``label=fine_label``.

    Raises:
        OptionError: a word is no such pair, or its role is another than these.
    """
    columns = {}
    for word in given:
        role, equals, column = word.partition("=")
        if role not in roles or not equals or not column:
            expected = " ".join(f"{role}=COLUMN" for role in roles)
            raise OptionError(f"--env.columns {word}: expected some of {expected}")
        if role in columns:
            raise OptionError(f"--env.columns gives {role}= twice")
        columns[role] = column
    return columns


def choose_column(
    opened: OpenedSet,
    role: str,
    given: Mapping[str, str],
    fits: Callable[[Any], bool],
    usual: Sequence[str],
) -> str:
    """The column for a role: the user's, the only one whose type fits, or the only one with a usual name.

    Args:
        opened: the data set.
        role: ``image``, ``text``, ``label``.
        given: by `read_columns`.
        fits: whether the library's type of a column is one for the role.
        usual: names.

    Raises:
        OptionError: there is no such column, or more than one; the message has the columns.
    """
    features = opened.splits["train"].features
    listed = ", ".join(f"{name} ({_type(feature)})" for name, feature in features.items())
    if role in given:
        if given[role] not in features:
            raise OptionError(
                f"{opened.name} has no column '{given[role]}' (--env.columns {role}=…). Its columns: {listed}"
            )
        return str(given[role])
    typed = [str(name) for name, feature in features.items() if fits(feature)]
    if len(typed) == 1:
        return typed[0]
    named = [name for name in usual if name in (typed or features)]
    if len(named) >= 1:
        return named[0]
    reason = f"several columns that may have the {role}" if typed else f"no column for the {role}"
    raise OptionError(f"{opened.name} has {reason}: pass --env.columns {role}=COLUMN. Its columns: {listed}")


def _type(feature: Any) -> str:
    """A type in a message: ``ClassLabel``, ``string``."""
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def is_class_label(feature: Any) -> bool:
    """Whether a column has the names of its classes."""
    return isinstance(feature, datasets.ClassLabel)


def is_image(feature: Any) -> bool:
    """Whether a column has images."""
    return isinstance(feature, datasets.Image)


def is_text(feature: Any) -> bool:
    """Whether a column has text."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


@attrs.frozen(eq=False)
class Labels:
    """The labels of a data set."""

    classes: tuple[str, ...]
    rows: Mapping[str, Tensor]
    """By split, the numbers (N,) of the labelled examples."""
    labels: Mapping[str, Tensor]
    """By split, (N,) int64 in [0, len(classes))."""
    notes: Sequence[str] = ()
    """What was left out."""


def read_labels(opened: OpenedSet, column: str) -> Labels:
    """The labels of all splits; splits and examples without labels are left out.

    Classes are those that the column names; otherwise its values, integers in their order, texts sorted.

    Raises:
        DataError: the column has other values, or no label at all.
    """
    feature = opened.splits["train"].features[column]
    values = {split: list(dataset[column]) for split, dataset in opened.splits.items()}
    notes = []
    rows, labels = {}, {}
    classes = _classes(opened, column, feature, values)
    number = {name: label for label, name in enumerate(classes)}
    for split, of_split in values.items():
        is_named = is_class_label(feature)
        numbered = [
            (row, int(value) if is_named else number[str(value)])
            for row, value in enumerate(of_split)
            if value is not None and value != UNLABELLED
        ]
        if len(numbered) < len(of_split):
            notes.append(f"{len(of_split) - len(numbered):,} examples of split '{split}' without a label")
        if numbered:
            rows[split], labels[split] = (torch.tensor(each) for each in zip(*numbered, strict=True))
    if "train" not in labels:
        raise DataError(f"{opened.name}: no training example has a label in column '{column}'")
    return Labels(classes, rows, labels, notes)


def _classes(
    opened: OpenedSet, column: str, feature: Any, values: Mapping[str, Sequence[Any]]
) -> tuple[str, ...]:
    if is_class_label(feature):
        return tuple(feature.names)
    known = {value for of_split in values.values() for value in of_split if value not in (None, UNLABELLED)}
    if wrong := [value for value in known if isinstance(value, float) or not isinstance(value, int | str)]:
        raise DataError(
            f"{opened.name}: column '{column}' has values that are no class: {shorten(map(repr, wrong))}; "
            "expected integers, texts or class labels: pass --env.columns label=COLUMN"
        )
    names = {str(value) for value in known}
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
