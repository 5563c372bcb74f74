"""Threads that end with the block that started them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A context with some threads for calls that look at `stopped` in between; Pillow decodes without the
    GIL.

    With `threads` 0 calls run at once, in the thread that submits them. At the end of the block, however it
    ends, calls that have not begun are cancelled, and those under way are waited for.
    """

    def __init__(self, threads: int) -> None:
        self.stopped = False
        self._pool = ThreadPoolExecutor(threads, "decode") if threads else None

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread call a function."""
        if self._pool is not None:
            return self._pool.submit(function, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done

    def stop(self) -> None:
        """End the threads."""
        self.stopped = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
