"""Base class of the envs whose images a library has: their sets become tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataError, ImageInput, SupervisedTask, TaskCard, shorten

from ..classification.stream import ClassHandler, check_options
from .image_set import SPLITS, Files, ImageSet
from .lazy_stream import LazyImageStream, fit_images
from .options import RowOptions
from .preprocess import Preprocess
from .reader import Reader
from .store import ImageRows, RowStore, row_names


@attrs.frozen(eq=False)
class LabelledRows:
    """The images of a split, and their labels."""

    rows: ImageRows
    labels: Tensor
    """(N,) int64 in [0, number of classes)."""


@attrs.frozen(eq=False)
class RowSet:
    """A data set of a library."""

    name: str
    """As the user calls it."""
    classes: tuple[str, ...]
    splits: Mapping[str, LabelledRows]
    """Of `SPLITS`; without ``test`` where it is to be held out."""


class RowStream(LazyImageStream):
    """Labelled images that a library has, ``image`` (3, size, size) in [0, 1].

    Several sets are a task each; with ``--env.classes-per-task`` or ``--env.tasks`` the classes of each set
    are divided into tasks.

    Args:
        config: options.
        seed: of the run; it affects the random partition and the split ``val`` only.
    """

    def __init__(self, config: RowOptions, seed: int) -> None:
        check_options(config.tasks, config.classes_per_task, config.class_weights, config.sampling)
        self._config = config = self.fit_images(config, None)
        assert config.image_size is not None  # by fit_images
        self.inputs = {"image": (3, config.image_size, config.image_size)}
        self._seed = seed

    @classmethod
    def fit_images(cls, config: RowOptions, images: ImageInput | None) -> RowOptions:
        """See `lazy_stream.fit_images`."""
        return fit_images(config, images)

    @abstractmethod
    def sets(self) -> Sequence[RowSet]:
        """The data sets, opened.

        Raises:
            DataError: one is missing or damaged.
        """

    def tasks(self) -> Sequence[SupervisedTask]:
        """All tasks, with a line on what was read."""
        preprocess = Preprocess.of(self._config)
        reader = RowReader(self.sets(), self._config, self._seed, preprocess, self.info)
        return self.read_tasks(reader, preprocess, self._config)

    @classmethod
    def handler(cls, card: TaskCard) -> ClassHandler:
        return ClassHandler(card)


class RowReader(Reader):
    """Reads the data sets of a library; see `Reader`."""

    def __init__(
        self,
        sets: Sequence[RowSet],
        config: RowOptions,
        seed: int,
        preprocess: Preprocess,
        info: Callable[[str], None],
    ) -> None:
        super().__init__(config, seed, preprocess, info)
        self._sets = sets
        self.store = RowStore(
            {_key(given, split): rows.rows for given in sets for split, rows in given.splits.items()}
        )

    def sets(self) -> list[ImageSet]:
        made = []
        for given in self._sets:
            check_labels(given)
            files = {
                split: Files(row_names(_key(given, split), len(labelled.labels)), labelled.labels)
                for split in SPLITS
                if (labelled := given.splits.get(split)) is not None and len(labelled.labels)
            }
            images = ImageSet(given.name if len(self._sets) > 1 else "", given.classes, files, "")
            counts = [sum(each) for each in zip(*map(images.counts, files), strict=True)]
            if empty := [name for name, count in zip(given.classes, counts, strict=True) if not count]:
                self._account.left_out.others.append(f"classes without images ({shorten(empty)})")
            made.append(images.choose([label for label, count in enumerate(counts) if count]))
        return made


def _key(given: RowSet, split: str) -> str:
    return f"{given.name}/{split}"


def check_labels(given: RowSet) -> None:
    """Check that the labels of a set are numbers of its classes, and that it has training images.

    Raises:
        DataError: they are not.
    """
    if "train" not in given.splits or not len(given.splits["train"].labels):
        raise DataError(f"{given.name} has no training images")
    for split, labelled in given.splits.items():
        wrong = labelled.labels[(labelled.labels < 0) | (labelled.labels >= len(given.classes))]
        if len(wrong):
            values = shorten(torch.unique(wrong).tolist())
            raise DataError(
                f"{given.name}, split '{split}': {len(wrong):,} of {len(labelled.labels):,} labels are not "
                f"the number of a class, 0 to {len(given.classes) - 1}: {values}"
            )
