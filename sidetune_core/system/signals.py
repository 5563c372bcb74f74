"""Stop requests: the first signal is noted and acted on where the state can be saved, the second one ends the
process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any

import attrs

GRACE_SECONDS = 5.0
"""How long a call of foreign code may take after a stop request: batch systems kill after 10 s or more."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


Handler = Callable[[int, FrameType | None], Any] | int | None


class StopRequested(KeyboardInterrupt):
    """A run ends because of a signal, `number`; its state is saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@attrs.define
class StopRequest:
    """The signal that asks a run to stop; None as long as there is none."""

    number: int | None = None

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopRequested: it has.
        """
        if self.number is not None:
            raise StopRequested(self.number)


@contextmanager
def handle_signals(notice: Callable[[str], None]) -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM for a block. A second signal has its usual effect.

    Python delivers signals to the main thread only; in other threads nothing is noted.

    Args:
        notice: shows a line to the user; called from a signal handler.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        restore()
        request.number = number
        again = "Press Ctrl-C again" if number == signal.SIGINT else "Send the signal again"
        notice(f"Interrupted: saving a checkpoint. {again} to quit now.")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()


class HangGuard:
    """Ends calls of foreign code, such as steps of environments, that do not return after a stop request.

    ``with guard:`` encloses such a call. If a signal comes within it and it has not returned
    `GRACE_SECONDS` later, `StopRequested` is raised in it. Native code that never returns to Python cannot be
    ended so.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._inside = False
        self._alarm: Any = None

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm)
            self._alarm = None

    def note(self, number: int) -> None:
        """A signal has come."""
        self.number = number
        if self._inside and self._alarm is None:
            self._alarm = signal.signal(signal.SIGALRM, self._end)
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _end(self, *_: object) -> None:
        if self._inside and self.number is not None:
            raise StopRequested(self.number)


@contextmanager
def guard_hangs() -> Iterator[HangGuard]:
    """A guard for calls of foreign code in a block of a process that handles signals (see `handle_signals`);
    elsewhere it changes nothing."""
    guard, handlers = HangGuard(), dict[int, Handler]()
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        handler = handlers[number]
        guard.note(number)
        if callable(handler):
            handler(number, frame)

    for number, handler in handlers.items():
        if isinstance(handler, FunctionType):  # not those of Python and the system
            signal.signal(number, note)
    try:
        yield guard
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
