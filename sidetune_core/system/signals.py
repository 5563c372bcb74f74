"""Stop requests: the first signal is noted and acted on where the state can be saved, the second one ends the
process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
