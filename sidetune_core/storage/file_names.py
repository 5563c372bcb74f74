"""Names that plugins give to files of a run: of tasks, splits and documents."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sidetune_core.errors import PluginError
from sidetune_core.io.printable import one_line

LONGEST_NAME = 100
"""Bytes of a name that is part of a file's name, which can have 255 with the other parts."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, where the run folder may be read."""


def check_file_name(name: object, what: str) -> None:
    """Check a name that a plugin gives to a file of the run.

    Raises:
        PluginError: it is no text, empty, too long, reserved, begins with '-' or '.', or has a slash or a
            control character; `what` says whose name it is.
    """
    if not isinstance(name, str):
        raise PluginError(f"{what} the name {shown_name(name)}, which is no text")
    has_others = bool(re.search(r"[/\\]", name)) or one_line(name) != name or name != name.strip()
    if not name or has_others or name.startswith(("-", ".")) or RESERVED.fullmatch(name):
        problem = "is no file name"
    elif len(name.encode()) > LONGEST_NAME:
        problem = f"is longer than {LONGEST_NAME} bytes"
    else:
        return
    raise PluginError(
        f"{what} the name {shown_name(name)}, which {problem}: use letters, digits, '-', '_', '.'"
    )


def check_file_names(names: Sequence[object], what: str, ignores_case: bool) -> None:
    """`check_file_name` for names of files in one folder, which must be distinct there.

    Args:
        names: of files.
        what: whose names they are, for the message.
        ignores_case: whether the disk takes ``A`` and ``a`` for one name.

    Raises:
        PluginError: one is no file name, or two of them are one file.
    """
    files: dict[str, object] = {}
    for name in names:
        check_file_name(name, what)
        file = unicodedata.normalize("NFC", str(name))
        file = file.casefold() if ignores_case else file
        if file in files:
            same = "the same" if files[file] == name else "one file on this disk"
            raise PluginError(
                f"{what} the names {shown_name(files[file])} and {shown_name(name)}, which are {same}; "
                "each needs its own"
            )
        files[file] = name


def shown_name(name: object) -> str:
    """A name for a message: as Python writes it, and shortened."""
    text = one_line(repr(name))
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text) - 2} characters)"


def ignores_case(path: Path) -> bool:
    """Whether a disk takes names that differ by case for one; `path` need not exist."""
    for folder in (path.absolute(), *path.absolute().parents):
        other = folder.with_name(folder.name.swapcase()) if folder.name else folder
        if folder.exists() and other != folder:
            return other.exists() and other.samefile(folder)
    return False
