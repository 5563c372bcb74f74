"""Worker processes that read the examples of a dataset ahead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from sidetune_core.errors import DataError
from sidetune_core.supervised.dataset_fetcher import Fetcher, stack


def read_by_workers(
    fetcher: Fetcher,
    batches: Iterator[list[tuple[int, int | None]]],
    workers: int,
    where: str,
    collate: Callable[[Sequence[Any]], Any] = stack,
) -> Iterator[Any]:
    """What `collate` makes of batches of (number, seed), in order, read ahead by worker processes.

    Raises:
        DataError: a worker has ended.
    """
    opened = _open_workers(fetcher, batches, workers, collate)
    while True:
        try:
            collated = next(opened)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            raise DataError(
                f"{where}: a worker process ended ({_first_line(error)}), perhaps for lack of "
                "memory or shared "
                "memory (/dev/shm): use fewer workers, or workers=0"
            ) from error
        yield collated


def _open_workers(
    fetcher: Fetcher,
    batches: Iterator[list[tuple[int, int | None]]],
    workers: int,
    collate: Callable[[Sequence[Any]], Any],
) -> Iterator[Any]:
    loader: DataLoader[Any] = DataLoader(
        fetcher,
        batch_sampler=_Batches(batches),
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # else opening it would draw from the global one
        worker_init_fn=_begin_worker,
    )
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if in_main and hasattr(signal, "SIGCHLD") else None
    opened = iter(loader)
    if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
        # torch's handler raises wherever this process is when a worker ends, and not where a batch is awaited
        signal.signal(signal.SIGCHLD, before)
    return opened


def _begin_worker(number: int) -> None:
    """The handlers of the run are those of its own process: an interrupted run saves its state, for which it
    may need another batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _Batches:
    """A batch sampler over batches that are drawn once."""

    def __init__(self, batches: Iterator[list[tuple[int, int | None]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        return self._batches
