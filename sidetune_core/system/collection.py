"""Python's cyclic garbage collector while a command starts."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_after_imports() -> Iterator[None]:
    """Within the block, in which a command imports PyTorch and the components, no cycles are collected;
    afterwards what was imported is exempt.

    Modules stay until the process ends, but each collection walks over all of their objects, about a million
    for PyTorch: a tenth of the time of its import, and of later collections. Where PyTorch is imported
    already, nothing changes: the objects of a program that calls a command are its own.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if "triton" in sys.modules:
            # imported with transformers; it reports every exempt object as a leak at exit
            atexit.register(gc.unfreeze)
        gc.enable()
