"""Reading folders and tables of image files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from sidetune_core.api import DataError

from .folders import read_folder
from .image_set import ImageSet
from .layout import Reading, distinct
from .preprocess import Preprocess
from .reader import Reader, unread
from .splits import SKIP
from .table_sets import SPLIT, TASK, TableReader
from .tables import read_table

if TYPE_CHECKING:
    from .env import Images


class FileReader(Reader):
    """Reads the files of the env ``images``; see `Reader`."""

    def __init__(
        self, config: Images.Config, seed: int, preprocess: Preprocess, info: Callable[[str], None]
    ) -> None:
        super().__init__(config, seed, preprocess, info)
        self._config = config
        self._unlisted: dict[str, str] = {}

    def sets(self) -> list[ImageSet]:
        sets = self._table_sets() if self._config.table is not None else self._folder_sets()
        if not self._skip and self._unlisted:
            raise DataError(f"{unread(self._unlisted, 'folder', len(self._unlisted))}; {SKIP}")
        self._account.left_out.unreadable += len(self._unlisted)
        return sets

    def _folder_sets(self) -> list[ImageSet]:
        layouts, sets = [], []
        roots = [os.path.normpath(os.path.expanduser(root)) for root in self._config.root]
        names = distinct([os.path.basename(os.path.abspath(root)) for root in roots], lambda k: roots[k])
        for name, root in zip(names, roots, strict=True):
            top = read_folder(root, self._account.left_out, self._unlisted)
            layout, found = Reading(root, self._account.left_out).sets(top, self._config.layout)
            layouts.append(layout)
            if len(roots) > 1:
                found = [attrs.evolve(images, name=images.name or name) for images in found]
            sets += found
        titles = distinct([images.name for images in sets], lambda k: f"{sets[k].name} ({sets[k].base})")
        sets = [attrs.evolve(images, name=title) for images, title in zip(sets, titles, strict=True)]
        self._account.layout = ", ".join(dict.fromkeys(layouts))
        if len(roots) > 1:
            self._account.layout = f"{len(roots)} folders of {self._account.layout}"
        return sets

    def _table_sets(self) -> list[ImageSet]:
        config = self._config
        assert config.table is not None
        path = config.table.expanduser()
        table = read_table(path, (config.path_column, *config.label_column), (SPLIT, TASK))
        base = os.path.normpath(os.path.expanduser(config.root[0])) if config.root else str(path.parent)
        self._account.layout = table.words()
        reader = TableReader(
            config.path_column, config.label_column, config.targets, base, self._skip, self._account
        )
        return reader.sets(table)
