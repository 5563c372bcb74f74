"""`sidetune cache`: list and clear what was downloaded or computed for later runs."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.clean import byte_size
from sidetune_core.cli.commands.shared import Switch
from sidetune_core.errors import OptionError, SidetuneError, suggest
from sidetune_core.io.cache_folders import CONTENTS, home, is_in_use, library_caches, tree_size
from sidetune_core.io.printable import one_line


def show_cache(words: Positional[tuple[str, ...]] = (), yes: Switch = False) -> int:
    """List the cache folders with their sizes, or clear some: ``sidetune cache clear store weights``.

    All are below $SIDETUNE_HOME, else $XDG_CACHE_HOME/sidetune, else ~/.cache/sidetune. What is deleted is
    downloaded or computed again when a run needs it. Nothing is deleted from the caches of other libraries,
    which are listed too, and nothing while a run uses the folder.

    Args:
        words: nothing to list; 'clear' and the names of folders to delete, or 'all'.
        yes: delete without asking.
    """
    folders = _folders()
    if not words:
        return _list(folders)
    if words[0] != "clear":
        raise OptionError(f"sidetune cache has no action '{words[0]}'. Run: sidetune cache clear NAME")
    return _clear(folders, words[1:], yes)


def _folders() -> dict[str, Path]:
    """The cache folders that exist, by name."""
    root = home()
    if not root.is_dir():
        return {}
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}


def _list(folders: dict[str, Path]) -> int:
    rows = [
        (name, byte_size(tree_size(path)), CONTENTS.get(name, f"files of component '{name}'"))
        for name, path in folders.items()
    ]
    print(one_line(f"{home()}{'' if rows else ' (empty)'}"))
    width = max(len(name) for name in [*folders, *library_caches()])
    for name, size, content in rows:
        print(one_line(f"  {name:<{width}}  {size:>11}  {content}"))
    print("Other libraries download to these folders, which the variables move (not cleared here):")
    for variable, path in library_caches().items():
        size = byte_size(tree_size(path)) if path.is_dir() else "none"
        print(one_line(f"  {variable:<{width}}  {size:>11}  {path}"))
    if rows:
        print("Clear with: sidetune cache clear NAME")
    return 0


def _clear(folders: dict[str, Path], names: Sequence[str], yes: bool) -> int:
    known = ", ".join(folders) or "none"
    if not names:
        raise OptionError(
            f"name the folders to clear, or 'all', such as: sidetune cache clear store; folders: {known}"
        )
    chosen = list(folders) if "all" in names else list(dict.fromkeys(names))
    if absent := [name for name in chosen if name not in folders]:
        listed = ", ".join(f"'{name}'" for name in absent)
        hint = suggest(absent[0], folders) if len(absent) == 1 else ""
        raise OptionError(f"no folder {listed} in the cache {home()}.{hint} Folders: {known}")
    if held := [name for name in chosen if is_in_use(folders[name])]:
        raise SidetuneError(
            f"a run uses the cache folder {', '.join(str(folders[name]) for name in held)}; "
            "wait for it or stop it, then try again"
        )
    sizes = {name: tree_size(folders[name]) for name in chosen}
    if not yes and not _confirmed(sizes, ["sidetune", "cache", "clear", *names, "--yes"]):
        print("Nothing was deleted.")
        return 1
    for name in chosen:
        _delete(folders[name])
        print(one_line(f"{folders[name]}: {byte_size(sizes[name])} freed"))
    return 0


def _confirmed(sizes: dict[str, int], command: Sequence[str]) -> bool:
    """Whether the user agrees; where nobody can answer, an error shows the command that does not ask."""
    what = ", ".join(f"{name} ({byte_size(size)})" for name, size in sizes.items())
    if not sys.stdin.isatty():
        raise OptionError(f"to delete {what} from {home()} without being asked, run: {shlex.join(command)}")
    return input(one_line(f"Delete {what} from {home()}? [y/N] ")).strip().lower() in ("y", "yes")


def _delete(folder: Path) -> None:
    """Delete what is in a folder, which may be a link to another disk."""
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not folder.is_symlink():
            folder.rmdir()
    except OSError as error:
        raise SidetuneError(f"cannot delete {error.filename or folder}: {error.strerror or error}") from error
