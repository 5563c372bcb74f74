"""The account of what was read: how many images of which classes, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy

import attrs

from sidetune_core.api import shorten


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``1,234 images``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


@attrs.define(eq=False)
class LeftOut:
    """Counts of what was found and is not used."""

    hidden: int = 0
    suffixes: Counter[str] = attrs.field(factory=Counter)
    """Files that are no images, by suffix."""
    dangling: int = 0
    """Symbolic links to nothing."""
    special: int = 0
    """Pipes, sockets and devices."""
    loops: int = 0
    """Symbolic links to a folder that contains them."""
    empty: int = 0
    """Folders without images where a class was expected."""
    outside: int = 0
    """Images that are in no class folder."""
    unreadable: int = 0
    """Files and folders that cannot be read, with ``--env.on-error skip``."""
    others: list[str] = attrs.field(factory=list)
    """In words: ``class 'cat' (1 image)``."""

    def words(self) -> str:
        """Everything left out, in words; empty if there is nothing."""
        listed = [
            _when(self.hidden, "hidden"),
            self._suffixes(),
            _when(self.dangling, "dangling link"),
            _when(self.special, "special file"),
            _when(self.loops, "link to a folder that contains it", "links to folders that contain them"),
            _when(self.empty, "empty folder"),
            _when(self.outside, "image outside of class folders", "images outside of class folders"),
            _when(self.unreadable, "unreadable", "unreadable"),
            *_capped(self.others),
        ]
        return ", ".join(filter(None, listed))

    def _suffixes(self) -> str:
        if not (total := self.suffixes.total()):
            return ""
        names = [suffix or "none" for suffix, _ in self.suffixes.most_common()]
        return f"{total:,} with {'another suffix' if total == 1 else 'other suffixes'} ({shorten(names)})"


def _when(count: int, noun: str, plural: str = "") -> str:
    if not count:
        return ""
    if noun == "hidden":
        return f"{count:,} hidden"
    return counted(count, noun, plural)


def _capped(texts: Iterable[str], limit: int = 3) -> list[str]:
    texts = list(texts)
    return [*texts[:limit], *([f"{len(texts) - limit} more"] if len(texts) > limit else [])]


@attrs.define(eq=False)
class Account:
    """What an env has read, for one line on the screen."""

    left_out: LeftOut = attrs.field(factory=LeftOut)
    layout: str = ""
    """``TASK/CLASS``, or the columns of a table."""
    notes: list[str] = attrs.field(factory=list)
    """What the user should know of the tasks."""

    def copy(self) -> Account:
        """An account that continues this one."""
        return deepcopy(self)

    def line(self, kind: str, classes: int, tasks: int, splits: Mapping[str, int]) -> str:
        """``1,234 images of 9 classes in 3 tasks (train 987, test 247); left out: 2 hidden; layout
        TASK/CLASS``."""
        counts = ", ".join(f"{split} {count:,}" for split, count in splits.items())
        what = f"{counted(sum(splits.values()), 'image')} of {_counted_kind(classes, kind)}"
        parts = [f"{what} in {counted(tasks, 'task')} ({counts})"]
        if left_out := self.left_out.words():
            parts.append(f"left out: {left_out}")
        if self.layout:
            parts.append(f"layout {self.layout}")
        return "; ".join([*parts, *_capped(self.notes, 4)])


def _counted_kind(count: int, kind: str) -> str:
    return counted(count, kind, {"class": "classes"}.get(kind, ""))
