"""What a run writes besides R, metrics and checkpoints: it never stops the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune_core.errors import WeightsError, WriteError


class ByProducts:
    """Reports each by-product that cannot be read or written once, and lets the run continue without it.

    Args:
        warning: shows a line to the user.
    """

    def __init__(self, warning: Callable[[str], None]) -> None:
        self._warning = warning
        self._left_out: set[Path] = set()

    @contextmanager
    def optional(self, path: Path) -> Iterator[None]:
        """A block that reads and writes a file or folder of by-products, and may fail to."""
        try:
            yield
        except (WriteError, WeightsError, OSError) as error:
            self.leave_out(path, error)

    def leave_out(self, path: Path, error: object) -> None:
        """Report that a file or folder is left out, once."""
        if path not in self._left_out:
            self._left_out.add(path)
            self._warning(f"{error}; the run continues without {path}")

    def has(self, path: Path) -> bool:
        """Whether nothing has failed at a path so far."""
        return path not in self._left_out
