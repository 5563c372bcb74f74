"""Reading folders and tables: the files, a look at each of them, and the tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from sidetune_core.api import DataError, shorten

from .account import Account, counted
from .folders import read_folder
from .identity import FileDigests
from .image_set import SPLITS, ImageSet
from .layout import Reading, distinct
from .pixel_cache import PixelCache
from .plan import Numbers, Plan, Planner
from .preprocess import Preprocess
from .scan import Scanned, scan_files
from .splits import SKIP, Splitter
from .table_sets import SPLIT, TASK, TableReader
from .tables import read_table

if TYPE_CHECKING:
    from .env import Images

GIB = 2**30


@attrs.frozen(eq=False)
class ReadImages:
    """What was read."""

    plan: Plan
    digests: FileDigests
    cache: PixelCache | None


class Reader:
    """Reads the files of the env ``images``.

    Args:
        config: its options.
        seed: of the run.
        preprocess: how files are decoded.
        info: prints progress and the account.
    """

    def __init__(
        self, config: Images.Config, seed: int, preprocess: Preprocess, info: Callable[[str], None]
    ) -> None:
        self._config, self._seed = config, seed
        self._preprocess, self._info = preprocess, info
        self._skip = config.on_error == "skip"
        self._account = Account()
        self._unlisted: dict[str, str] = {}

    def read(self) -> ReadImages:
        """List the files, look at each of them, and divide them into tasks.

        Raises:
            DataError: there are no images, or some cannot be used; all of them are counted.
            OptionError: the options ask for what the images cannot be.
        """
        sets = self._table_sets() if self._config.table is not None else self._folder_sets()
        if not self._skip and self._unlisted:
            raise DataError(f"{_unread(self._unlisted, 'folder', len(self._unlisted))}; {SKIP}")
        self._account.left_out.unreadable += len(self._unlisted)
        if self._config.tasks is None and self._config.classes_per_task is None:
            sets = sets[: self._config.num_tasks]
        plan, account = self._plan(sets)
        cache = self._cache(plan)
        order = _in_order(plan)
        scanned = scan_files(
            order.paths, self._preprocess, self._config.scan, self._info, cache, self._config.threads
        )
        digests = FileDigests(scanned.digests if self._config.scan == "full" else None, scanned.stamps)
        if scanned.bad:
            self._refuse(scanned, len(order.paths), sets[0].base)
            self._account.left_out.unreadable += len(scanned.bad)
            left = [images.without(scanned.bad.__contains__) for images in sets]
            if not (left := [images for images in left if len(images) and images.names]):
                raise DataError(f"none of {counted(len(order.paths), 'file')} can be read")
            plan, account = self._plan(left, order.numbers())
        self._report(plan, account)
        return ReadImages(plan, digests, cache)

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

    def _plan(self, sets: Sequence[ImageSet], numbers: Numbers | None = None) -> tuple[Plan, Account]:
        """A plan, with an account of its own: another plan may replace it."""
        account, config = self._account.copy(), self._config
        splitter = Splitter(config.test_fraction, config.val_fraction, self._seed, self._skip, account)
        planner = Planner(
            splitter,
            account,
            config.tasks,
            config.classes_per_task,
            config.partition,
            self._seed,
            config.num_tasks,
        )
        return planner.plan(sets, numbers), account

    def _cache(self, plan: Plan) -> PixelCache | None:
        limit = int(self._config.memory * GIB)
        count = sum(map(len, plan.sets))
        return PixelCache(limit, count, self._preprocess.size) if limit else None

    def _refuse(self, scanned: Scanned, total: int, base: str) -> None:
        """Raise an error about files that cannot be read, unless they are to be left out."""
        if self._skip:
            return
        bad = {os.path.relpath(path, base): _short_reason(reason) for path, reason in scanned.bad.items()}
        raise DataError(f"{_unread(bad, 'file', total)}; {SKIP}")

    def _report(self, plan: Plan, account: Account) -> None:
        """Print the account."""
        splits = dict.fromkeys(SPLITS, 0)
        for images in plan.sets:
            for split, files in images.splits.items():
                splits[split] += len(files)
        single = [task.id for task in plan.tasks if len(task.images.names) == 1]
        if single and plan.tasks[0].images.kind == "class":
            account.notes.append(f"one class only, so that accuracy is 1: {shorten(single)}")
        if self._config.scan != "full":
            account.notes.append(f"contents were not read (--env.scan {self._config.scan})")
        kind = {"class": "class", "labels": "label", "values": "value"}[plan.sets[0].kind]
        names = sum(len(task.images.names) for task in plan.tasks)
        self._info(account.line(kind, names, len(plan.tasks), {split: n for split, n in splits.items() if n}))


@attrs.frozen(eq=False)
class _Order:
    """All files in the order of their example ids."""

    paths: list[str]
    owners: list[str]
    """The set of each file."""

    def numbers(self) -> Numbers:
        files = zip(self.owners, self.paths, strict=True)
        return {file: index for index, file in enumerate(files)}


def _in_order(plan: Plan) -> _Order:
    paths: list[str] = []
    owners: list[str] = []
    for split in SPLITS:
        for images in plan.sets:
            if split in images.splits:
                paths += images.splits[split].paths
                owners += [images.name] * len(images.splits[split])
    return _Order(paths, owners)


def _unread(bad: Mapping[str, str], noun: str, total: int) -> str:
    """``3 of 12,000 files cannot be read: a.jpg (truncated), b.jpg (…) and 1 more``"""
    named = shorten(f"{name} ({reason})" for name, reason in bad.items())
    return f"{len(bad):,} of {counted(total, noun)} cannot be read: {named}"


def _short_reason(reason: str) -> str:
    """Without what the message says anyway."""
    return reason.removeprefix("cannot be read as an image: ")
