"""The classes of a dataset: which there are, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch.utils.data import Subset

from sidetune_core.errors import DataError, OptionError, shorten
from sidetune_core.supervised.dataset_examples import BadExample
from sidetune_core.supervised.dataset_targets import ClassCoder, Label, plain_label


def class_names(dataset: Any) -> Sequence[str] | None:
    """The names of the classes that a dataset has, as those of torchvision do; None if it has none."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return names if listed else None


@attrs.frozen
class Labels:
    """The labels of the examples of a split."""

    where: str
    found: Sequence[Label]


def make_class_coder(
    splits: Mapping[str, Labels], classes: Sequence[Any] | None, names: Sequence[str] | None
) -> ClassCoder:
    """Number the classes of a task.

    Args:
        splits: the labels of each split, 'train' among them.
        classes: the classes in order, as labels or as names of labels 0, 1, …; None for all labels of the
            training examples, sorted.
        names: those that the dataset has of labels 0, 1, …; None for none.

    Raises:
        DataError: examples have other labels, or a class has test examples and no training examples.
    """
    train = set(splits["train"].found)
    where = splits["train"].where
    coder = _found(train, names, where) if classes is None else _listed(classes, train, names)
    for split, labels in splits.items():
        unknown = Counter(label for label in labels.found if label not in coder.table)
        if unknown and classes is None:
            raise DataError(
                f"{labels.where}: {unknown.total():,} of {len(labels.found):,} examples of split "
                f"'{split}' have "
                f"classes that no training example has: {_counts(unknown)}"
            )
        if unknown:
            raise DataError(
                f"{labels.where}: {unknown.total():,} of {len(labels.found):,} examples have labels that are "
                f"not in classes=: {_counts(unknown)}. Add them, or leave the examples out "
                "(torch.utils.data.Subset)"
            )
        if split != "train" and (untrained := Counter(label for label in labels.found if label not in train)):
            raise DataError(
                f"{labels.where}: {untrained.total():,} of {len(labels.found):,} examples of split '{split}' "
                f"have classes that no training example has: {_counts(untrained)}"
            )
    return coder


def _found(train: set[Label], names: Sequence[str] | None, where: str) -> ClassCoder:
    kinds = {type(label) for label in train}
    if len(kinds) > 1:
        raise DataError(f"{where}: some labels are integers and some are names: make them one kind")
    labels = sorted(train)
    numbers = [label for label in labels if isinstance(label, int)]
    named = names is not None and len(numbers) == len(labels) and all(0 <= n < len(names) for n in numbers)
    called = tuple(names[n] for n in numbers) if names is not None and named else tuple(map(str, labels))
    return ClassCoder({label: number for number, label in enumerate(labels)}, called)


def _listed(classes: Sequence[Any], train: set[Label], names: Sequence[str] | None) -> ClassCoder:
    """Classes that the user lists: labels themselves; or names of integer labels, which are those that the
    dataset gives the names, 0, 1, …, or as many others as there are names, in their order."""
    try:
        listed = [plain_label(label) for label in classes]
    except BadExample as error:
        raise OptionError(f"classes= is a list of labels or of names: {error}") from error
    called = tuple(map(str, listed))
    if repeated := [label for label, count in Counter(called).items() if count > 1]:
        raise OptionError(f"classes= names {shorten(repeated)} more than once")
    if not listed:
        raise OptionError("classes= is empty; leave it out for all labels of the training examples")
    integers = all(isinstance(label, int) for label in train)
    if not (integers and train and all(isinstance(label, str) for label in listed)):
        return ClassCoder({label: number for number, label in enumerate(listed)}, called)
    if names is not None and all(name in names for name in called):
        return ClassCoder({names.index(name): number for number, name in enumerate(called)}, called)
    labels = sorted(train)
    inside = all(0 <= label < len(called) for label in labels if isinstance(label, int))
    if not inside and len(labels) == len(called):
        return ClassCoder({label: number for number, label in enumerate(labels)}, called)
    return ClassCoder({number: number for number in range(len(called))}, called)


def _counts(labels: Counter[Label]) -> str:
    """``'cat' (3), 'dog' (1) and 2 more``"""
    return shorten(f"{label!r} ({count:,})" for label, count in labels.most_common())
