"""Stopping in good order: the first signal is noted, and acted on where a state can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(KeyboardInterrupt):
    """A signal was noted, and what was to be saved is saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@attrs.define
class StopRequest:
    """The signal that has come, or None."""

    number: int | None = None

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            Stopped: it has.
        """
        if self.number is not None:
            raise StopRequested(self.number)


@contextmanager
def handle_signals(tell: Callable[[str], None]) -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM for a block instead of being cut off. A second signal has its usual effect: it stops at once.

    Only the main thread is told of signals; elsewhere nothing is noted.

    Args:
        tell: shows a line to the user; called in a signal handler.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        restore()
        stop.number = number
        tell("stopping where the state can be saved; once more stops at once")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
