"""Images of the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import datasets

from sidetune_core.api import option

from ..images.options import RowOptions
from ..images.row_stream import LabelledRows, RowSet, RowStream
from .columns import LABEL_NAMES, choose_column, is_class_label, is_image, read_columns, read_labels
from .load import OpenedSet, check_named, left_out, open_sets


@attrs.frozen(eq=False)
class ColumnImages:
    """The images of a column, which the library decodes when they are needed."""

    dataset: Any
    column: str

    def image(self, row: int) -> Any:
        """A Pillow image."""
        return self.dataset[row][self.column]


class HFImages(RowStream):
    """Images of the Hugging Face ``datasets`` library with a class each, ``image`` (3, size, size) in [0, 1].

    A data set is a name on the Hub or a local folder: one that ``save_to_disk`` has written, a folder of
    images, or files of parquet. It is one task, or several of some classes each (``--env.classes-per-task``);
    several in a row are a task each. Columns of images and labels are found by their types
    (``--env.columns``). Images of any size are made square as the base was trained; grey ones become RGB.
    Splits are those of the data set; where there is no labelled test split, a fifth of each class is held
    out, the same images for every seed.
    """

    @attrs.frozen
    class Config(RowOptions):
        """Options of the env; `dataset` is required."""

        dataset: tuple[str, ...] = option(
            (), "one or several data sets: names on the Hugging Face Hub, or folders or files"
        )
        subset: str | None = option(None, "subset (configuration) of the data set, where it has several")
        columns: tuple[str, ...] = option(
            (), "columns, such as 'image=img label=fine_label'; by default they are found by type and name"
        )

    recipe = {"epochs": 4.0, "batch_size": 128, "lr": 1e-3}

    def __init__(self, config: Config, seed: int) -> None:
        check_named(config.dataset, "hf", "uoft-cs/cifar10")
        super().__init__(config, seed)
        self._columns = read_columns(config.columns, ("image", "label"))
        self._names, self._subset = config.dataset, config.subset

    def sets(self) -> Sequence[RowSet]:
        """See `RowStream.sets`."""
        return [self._set(opened) for opened in open_sets(self._names, self._subset)]

    def _set(self, opened: OpenedSet) -> RowSet:
        image = choose_column(opened, "image", self._columns, is_image, ("image", "img"))
        label = choose_column(opened, "label", self._columns, is_class_label, LABEL_NAMES)
        labels = read_labels(opened, label)
        if note := left_out(opened, labels.notes):
            self.info(note)
        splits = {}
        for split, rows in labels.rows.items():
            dataset = opened.splits[split].select_columns([image])
            if not is_image(dataset.features[image]):  # paths
                dataset = dataset.cast_column(image, datasets.Image())
            if len(rows) < len(dataset):
                dataset = dataset.select(rows.tolist())
            splits[split] = LabelledRows(ColumnImages(dataset, image), labels.labels[split])
        return RowSet(opened.name, labels.classes, splits)
