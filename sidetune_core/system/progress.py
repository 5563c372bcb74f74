"""What a person sees while a run goes on: a bar on a terminal, plain lines in a pipe, nothing when asked for quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the steps of one task after another.

    Args:
        stream: where to write; standard error by default, so that standard output holds results only.
        quiet: show nothing.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._head, self._steps, self._shown = "", 0, 0.0

    def info(self, text: str) -> None:
        """A line of its own, beside a bar if there is one."""
        if not self._quiet:
            tqdm.write(text, file=self._stream)

    def warning(self, text: str) -> None:
        """A line that is shown even where nothing else is."""
        tqdm.write(text, file=self._stream)

    def notice(self, text: str) -> None:
        """A line of its own from within a signal handler, where the stream may be in use."""
        if not self._quiet:
            with suppress(OSError):
                os.write(2, f"\n{text}\n".encode())

    def start(self, head: str, steps: int) -> None:
        """A task of so many steps begins."""
        self._head, self._steps, self._shown = head, steps, time.monotonic()
        if not self._quiet and self._stream.isatty():
            self._bar = tqdm(
                total=steps, desc=head, unit="step", file=self._stream, leave=False, dynamic_ncols=True
            )

    def step(self, done: int, loss: float, figures: Mapping[str, float] = MappingProxyType({})) -> None:
        """`done` steps of the task are behind, with this loss, and other figures by name, of late."""
        words = ", ".join([f"loss {loss:.3f}", *(f"{name} {figure:.3g}" for name, figure in figures.items())])
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown > SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            self.info(f"{self._head}: step {done}/{self._steps}, {words}")

    def finish(self, text: str) -> None:
        """The task is over; `text` stays."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.info(text)
