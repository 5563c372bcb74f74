"""The terminal that a command prints to."""

from __future__ import annotations

import os
import shutil
import sys

from sidetune_core.results.screen import Screen


def screen(long: bool = False) -> Screen:
    """The width of the terminal, or of ``$COLUMNS``; a pipe without it has none."""
    is_known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Screen(shutil.get_terminal_size().columns if is_known else None, long)
