"""The folders that hold what can be downloaded or computed again, all below one root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

DEFAULT_HOME = Path("~/.cache/sidetune")
"""The root where neither ``SIDETUNE_HOME`` nor ``XDG_CACHE_HOME`` is set. Defaults of options are below it:
they are the same on every machine."""

CONTENTS: Mapping[str, str] = {
    "data": "downloaded data sets",
    "decoded": "decoded images of data sets",
    "recordings": "recorded demonstrations",
    "store": "outputs of frozen bases (--cache.mode disk)",
    "weights": "downloaded weights",
}
"""What is in the folders that several components share; any other is named after its component."""


def home() -> Path:
    """The root of all caches: ``$SIDETUNE_HOME``, else ``$XDG_CACHE_HOME/sidetune``, else
    ``~/.cache/sidetune``."""
    if chosen := os.environ.get("SIDETUNE_HOME"):
        return Path(chosen).expanduser()
    # The specification of XDG_CACHE_HOME ignores relative paths.
    if (caches := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return caches / "sidetune"
    return DEFAULT_HOME.expanduser()


def cache_path(path: Path) -> Path:
    """The folder that an option names, with ``~`` expanded.

    A folder below ``~/.cache/sidetune``, as defaults are, is one below `home`.
    """
    if path.is_relative_to(DEFAULT_HOME):
        return home() / path.relative_to(DEFAULT_HOME)
    return path.expanduser()


def library_caches() -> dict[str, Path]:
    """The cache folders of libraries, by the variables that move them: of the Hugging Face Hub (transformers,
    datasets, timm) and of torchvision."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folders = {"HF_HOME": "huggingface", "TORCH_HOME": "torch"}
    return {
        variable: Path(os.environ.get(variable) or caches / name).expanduser()
        for variable, name in folders.items()
    }


def tree_size(folder: Path) -> int:
    """The bytes of all files below a folder; links count as links, what disappears meanwhile as nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark a cache folder as in use for a block. The mark goes with the process; where the system or the disk
    has no shared locks, there is none."""
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)  # the lock is on the folder itself and adds no file
    except (ImportError, OSError):
        yield
        return
    with suppress(OSError):  # it is about to be cleared, or the disk has no locks
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(opened)


def is_in_use(folder: Path) -> bool:
    """Whether a process on this machine has marked a cache folder with `in_use`, as far as that is known."""
    try:
        import fcntl

        opened = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(opened)
    return False
