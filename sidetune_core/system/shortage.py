"""What a computer lacks when an allocation fails, as a sentence for its user. Imports no torch."""

from __future__ import annotations

import errno
import re
from types import TracebackType

LACKS_MEMORY = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|unable to allocate|bad_alloc|ALLOC_FAILED"
    r"|could not create a memory|can't start new thread",
    re.IGNORECASE,
)
"""In messages of PyTorch, NumPy, CUDA, oneDNN, the C++ library, the system and Python's threads."""

SIZE = re.compile(r"(?:tried|unable) to (?:allocate|mmap) ([\d.]+) ?(bytes|[KMGTPE]?i?B)\b", re.IGNORECASE)
"""In those that state one."""

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOSPC)

ADVICE = "use a lower --train.batch-size, --cache.limit or, where the env has it, --env.memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about memory, on the CPU or a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and LACKS_MEMORY.search(str(error)) is not None
    )


def describe_shortage(error: BaseException) -> str | None:
    """What is lacking, and what to do; None for an error about something else."""
    if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
        return error.strerror
    if not is_out_of_memory(error):
        return None
    size = SIZE.search(str(error))
    what = f"{_readable(*size.groups())} could not be allocated" if size else "an allocation failed"
    if "can't start new thread" in str(error):
        what = "a thread could not be started"
    module = _module_of(error.__traceback__)
    by = f" by {module}" if module else ""
    device = "GPU out of memory" if "CUDA" in str(error) else "out of memory"
    return f"{device}: {what}{by}{_limit()}; {ADVICE}"


def _readable(number: str, unit: str) -> str:
    """``537 MB`` for ``536870912 bytes``."""
    return f"{float(number) / 1e6:,.0f} MB" if unit == "bytes" else f"{number} {unit}"


def _module_of(trace: TracebackType | None) -> str | None:
    """The innermost module of sidetune in a traceback."""
    module = None
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if name.startswith(("sidetune_core.", "sidetune_plugins.")):
            module = name
        trace = trace.tb_next
    return module


def _limit() -> str:
    """The limit of this process on its address space, if there is one."""
    try:
        import resource  # posix only
    except ImportError:
        return ""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if limit == resource.RLIM_INFINITY else f" (ulimit -v allows {limit / 1e6:,.0f} MB)"
