"""Reading labelled images: a look at each of them, and the tasks."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from sidetune_core.api import DataError, shorten

from ..classification.few import ImageLimit
from .account import Account, counted
from .identity import FileDigests
from .image_set import SPLITS, ImageSet
from .pixel_cache import PixelCache
from .plan import Numbers, Plan, Planner
from .preprocess import Preprocess
from .scan import Scanned, scan_files
from .splits import SKIP, Splitter
from .store import FILES, ImageStore

if TYPE_CHECKING:
    from .options import LazyOptions

GIB = 2**30


@attrs.frozen(eq=False)
class ReadImages:
    """What was read."""

    plan: Plan
    digests: FileDigests
    cache: PixelCache | None


class Reader(ABC):
    """Reads labelled images. Subclasses find them.

    Args:
        config: options of the env.
        seed: of the run.
        preprocess: how images are decoded.
        info: prints progress and the account.
    """

    store: ImageStore = FILES
    """Has the images that `sets` names."""

    def __init__(
        self, config: LazyOptions, seed: int, preprocess: Preprocess, info: Callable[[str], None]
    ) -> None:
        self._options, self._seed = config, seed
        self._preprocess, self._info = preprocess, info
        self._skip = config.on_error == "skip"
        self._account = Account()

    @abstractmethod
    def sets(self) -> list[ImageSet]:
        """The images by task, or one set whose classes are to be divided into tasks.

        Raises:
            DataError: there are none, or some cannot be used.
        """

    def read(self) -> ReadImages:
        """List the images, look at each of them, and divide them into tasks.

        Raises:
            DataError: there are no images, or some cannot be used; all of them are counted.
            OptionError: the options ask for what the images cannot be.
        """
        sets, options = self.sets(), self._options
        if options.tasks is None and options.classes_per_task is None:
            sets = sets[: options.num_tasks]
        plan, account = self._plan(sets)
        cache = self._cache(plan)
        order = _in_order(plan)
        scanned = scan_files(
            order.paths, self._preprocess, options.scan, self._info, cache, options.threads, self.store
        )
        digests = FileDigests(scanned.digests if options.scan == "full" else None, scanned.stamps)
        if scanned.bad:
            self._refuse(scanned, len(order.paths), sets[0].base)
            self._account.left_out.unreadable += len(scanned.bad)
            left = [images.without(scanned.bad.__contains__) for images in sets]
            if not (left := [images for images in left if len(images) and images.names]):
                raise DataError(f"none of {counted(len(order.paths), 'file')} can be read")
            plan, account = self._plan(left, order.numbers())
        self._report(plan, account)
        return ReadImages(plan, digests, cache)

    def _plan(self, sets: Sequence[ImageSet], numbers: Numbers | None = None) -> tuple[Plan, Account]:
        """A plan, with an account of its own: another plan may replace it."""
        account, config = self._account.copy(), self._options
        splitter = Splitter(config.test_fraction, config.val_fraction, self._seed, self._skip, account)
        planner = Planner(
            splitter,
            account,
            config.tasks,
            config.classes_per_task,
            config.partition,
            self._seed,
            config.num_tasks,
            ImageLimit(config.max_images, self._seed) if config.max_images is not None else None,
        )
        return planner.plan(sets, numbers), account

    def _cache(self, plan: Plan) -> PixelCache | None:
        limit = int(self._options.memory * GIB)
        count = sum(map(len, plan.sets))
        return PixelCache(limit, count, self._preprocess.size) if limit else None

    def _refuse(self, scanned: Scanned, total: int, base: str) -> None:
        """Raise an error about files that cannot be read, unless they are to be left out."""
        if self._skip:
            return
        bad = {
            (os.path.relpath(path, base) if base else path): _short_reason(reason)
            for path, reason in scanned.bad.items()
        }
        raise DataError(f"{unread(bad, 'file', total)}; {SKIP}")

    def _report(self, plan: Plan, account: Account) -> None:
        """Print the account."""
        splits = dict.fromkeys(SPLITS, 0)
        for images in plan.sets:
            for split, files in images.splits.items():
                splits[split] += len(files)
        if self._options.max_images is not None:
            splits["train"] = sum(len(task.images.splits["train"]) for task in plan.tasks)
        single = [task.id for task in plan.tasks if len(task.images.names) == 1]
        if single and plan.tasks[0].images.kind == "class":
            account.notes.append(f"one class only, so that accuracy is 1: {shorten(single)}")
        if self._options.scan != "full":
            account.notes.append(f"contents were not read (--env.scan {self._options.scan})")
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


def unread(bad: Mapping[str, str], noun: str, total: int) -> str:
    """``3 of 12,000 files cannot be read: a.jpg (truncated), b.jpg (…) and 1 more``"""
    named = shorten(f"{name} ({reason})" for name, reason in bad.items())
    return f"{len(bad):,} of {counted(total, noun)} cannot be read: {named}"


def _short_reason(reason: str) -> str:
    """Without what the message says anyway."""
    reason = reason.removeprefix("cannot be read as an image: ")
    return re.sub(" <_io[^>]*>", "", reason)  # how Pillow names a file in memory
