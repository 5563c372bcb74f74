"""Progress of a run: a bar on a terminal, plain lines in a pipe, nothing with ``--quiet``."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TextIO

from tqdm import tqdm

from sidetune_core.io.printable import one_line, unescaped

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_BATCHES = 2.0
"""After training, until the first line."""


class Progress:
    """Shows the training steps of each task. A value that is not finite is shown as ``·``.

    Args:
        stream: standard error by default, so that standard output has results only.
        quiet: show nothing.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = unescaped(stream if stream is not None else sys.stderr)  # escapes its texts itself
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._head, self._steps, self._shown = "", 0, 0.0

    def info(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            tqdm.write(one_line(text), file=self._stream)

    def warning(self, text: str) -> None:
        """Print a line even when quiet."""
        tqdm.write(one_line(text), file=self._stream)

    def notice(self, text: str) -> None:
        """Print a line from a signal handler, where the stream may be in use."""
        if not self._quiet:
            with suppress(OSError):
                os.write(2, f"\n{one_line(text)}\n".encode())

    def start(self, head: str, steps: int) -> None:
        """Training of `steps` steps begins; `head` names the task."""
        head = one_line(head)
        self._head, self._steps, self._shown = head, steps, time.monotonic()
        if not self._quiet and self._stream.isatty():
            self._bar = tqdm(
                total=steps, desc=head, unit="step", file=self._stream, leave=False, dynamic_ncols=True
            )

    def step(
        self, done: int, loss: float | None, metrics: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """`done` steps are taken; show the recent loss, if there is one, and other metrics by name."""
        shown = [] if loss is None else [f"loss {loss:.3f}"]
        text = ", ".join([*shown, *(f"{name} {_number(value)}" for name, value in metrics.items())])
        if self._bar is not None:
            self._bar.set_postfix_str(one_line(text), refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown > SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            self.info(f"{self._head}: step {done}/{self._steps}" + (f", {text}" if text else ""))

    def batch(self, head: str, done: int) -> None:
        """`done` batches are processed after training; `head` names the task. There may be any number."""
        head = one_line(head)
        if done == 0:
            self.clear()
            self._head, self._shown = head, time.monotonic() + SECONDS_BEFORE_BATCHES - SECONDS_BETWEEN_LINES
            if not self._quiet and self._stream.isatty():
                self._bar = tqdm(desc=head, unit="batch", file=self._stream, leave=False, dynamic_ncols=True)
        elif self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown > SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            self.info(f"{self._head}: batch {done}")

    def clear(self) -> None:
        """Show no steps any more."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def finish(self, text: str) -> None:
        """The task is finished; `text` stays visible."""
        self.clear()
        self.info(text)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "·"
