"""What the import of a plugin may change in the process, and how that is restored."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE")
    if hasattr(signal, name)
)


@attrs.frozen
class Setting:
    """A state of the process that belongs to the user, or to the run."""

    read: Callable[[], Any]
    restore: Callable[[Any], object]


def settings() -> dict[str, Setting]:
    """The settings by what to call them in a message; those of torch only if it is imported."""
    chosen = {
        "the current folder": Setting(_folder, _set_folder),
        "signal handlers": Setting(_signal_handlers, _set_signal_handlers),
        "filters of all warnings": Setting(_blanket_filters, _remove_blanket_filters),
        "the settings of logging": Setting(_logging, _set_logging),
    }
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):  # not imported, or not completely
        return chosen
    return chosen | {
        "the default type of tensors": Setting(torch.get_default_dtype, torch.set_default_dtype),
        "the default device": Setting(torch.get_default_device, torch.set_default_device),
        "the number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
        "the gradient mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
        "the precision of matrix products": Setting(
            torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        ),
        "deterministic algorithms": Setting(
            torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
        ),
        "the settings of cuDNN": Setting(lambda: _cudnn(torch), lambda values: _set_cudnn(torch, values)),
    }


def changed_settings(before: Mapping[str, Any]) -> list[str]:
    """The settings that differ from `before`, which are their values by name."""
    now = settings()
    return [name for name, value in before.items() if now[name].read() != value]


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Restore settings and random states after a block that imports code of others.

    A run computes the same, and is written to the same folder, whatever its plugins do when imported.
    """
    kept = settings()
    values = {name: setting.read() for name, setting in kept.items()}
    randomness = [(restore, read()) for read, restore in _random_states()]
    try:
        yield
    finally:
        for name, setting in kept.items():
            if setting.read() != values[name]:
                setting.restore(values[name])
        for restore, state in randomness:
            restore(state)


@contextmanager
def process_kept_alive() -> Iterator[None]:
    """Raise SystemExit where a block calls ``os._exit``, which would end the process without a word."""
    leave, process = os._exit, os.getpid()

    def exit_loudly(status: int) -> None:
        if os.getpid() != process:  # of a child process, which ends like this
            leave(status)
        raise SystemExit(f"os._exit({status})")

    replaced: Any = exit_loudly
    os._exit = replaced
    try:
        yield
    finally:
        os._exit = leave


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """The signals that raise KeyboardInterrupt within a block, to tell Ctrl-C from code that raises it.

    Where a handler of others is installed, the list has SIGINT from the start. Where the signal is ignored,
    as in a background job of a shell, only code raises KeyboardInterrupt.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield received
        return
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield [signal.SIGINT]
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _folder() -> str | None:
    with suppress(OSError):  # it was deleted
        return os.getcwd()
    return None


def _set_folder(path: str | None) -> None:
    if path is not None:
        os.chdir(path)


def _signal_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def _set_signal_handlers(handlers: Mapping[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _blanket_filters() -> list[Any]:
    """The filters that match every warning; those of a category, message or module are left to libraries."""
    return [
        entry
        for entry in warnings.filters
        if entry[1] is None and entry[3] is None and not entry[4] and issubclass(Warning, entry[2])
    ]


def _remove_blanket_filters(kept: list[Any]) -> None:
    added = [entry for entry in _blanket_filters() if entry not in kept]
    filters: Any = warnings.filters
    filters[:] = [entry for entry in filters if entry not in added]
    with warnings.catch_warnings():  # makes the module forget what it has cached about the filters
        pass


def _logging() -> tuple[Any, ...]:
    return logging.root.manager.disable, logging.root.level, list(logging.root.handlers)


def _set_logging(values: tuple[Any, ...]) -> None:
    disabled, level, handlers = values
    logging.disable(disabled)
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def _cudnn(torch: Any) -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(torch: Any, values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = values


def _random_states() -> list[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How to read and restore the state of each global generator that is imported."""
    generators: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [(random.getstate, random.setstate)]
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        generators.append((numpy.get_state, numpy.set_state))
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_rng_state"):
        generators.append((torch.get_rng_state, torch.set_rng_state))
    return generators
