"""Ids of Minari's data sets, and the folders of those on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sidetune_core.errors import DataError, shorten, suggest

METADATA = "metadata.json"
"""Of a data set, in its folder ``data``."""

INSTALL = "pip install 'sidetune[demonstrations]'"

MAX_DEPTH = 4
"""Parts of an id: namespaces, which may be nested, and the name."""

ID = re.compile(rf"(?:[A-Za-z0-9][\w.-]*/){{0,{MAX_DEPTH - 1}}}[A-Za-z0-9][\w.-]*-v\d+")
"""``D4RL/door/human-v2``"""


def data_folder(path: Path) -> Path | None:
    """The folder of a data set that has its ``metadata.json``, by its folder or its id; None if it is not on
    this machine."""
    places = [path] if path.exists() or path.is_absolute() else [path, _root() / path]
    folders = (folder for place in places for folder in (place, place / "data"))
    return next((folder for folder in folders if (folder / METADATA).is_file()), None)


def check_downloaded(paths: Sequence[Path]) -> None:
    """Check that the data sets which paths name by their ids are on this machine.

    Raises:
        DataError: some are not; with the command that downloads them.
    """
    missing = [
        path.as_posix()
        for path in paths
        if not path.exists() and ID.fullmatch(path.as_posix()) and data_folder(path) is None
    ]
    if not missing:
        return
    verb = (
        "is no folder here and no data set" if len(missing) == 1 else "are no folders here and no data sets"
    )
    near = "".join(suggest(id, here) for id in missing) if (here := _downloaded()) else ""
    commands = " && ".join(f"minari download {id}" for id in missing)
    install = "" if find_spec("minari") else f"{INSTALL} && "
    listed = near or (f" Downloaded: {shorten(here)}." if here else "")
    raise DataError(
        f"{shorten(missing)} {verb} of Minari in {_root()}.{listed} Download "
        f"{'it' if len(missing) == 1 else 'them'}: {install}{commands}"
    )


def _root() -> Path:
    """Minari's folder of data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def _downloaded() -> list[str]:
    """The ids of the data sets on this machine."""
    root = _root()
    found = [
        path for depth in range(1, MAX_DEPTH + 1) for path in root.glob("*/" * depth + f"data/{METADATA}")
    ]
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in found)
