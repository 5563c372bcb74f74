"""Errors on their way from a worker process to the main one."""

from __future__ import annotations

import pickle
import traceback


def portable(error: BaseException, stage: str) -> BaseException:
    """An error that can be raised in another process, with the traceback of this one as a note."""
    lines = "".join(traceback.format_exception(error))
    try:
        copied: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        copied = RuntimeError(f"{type(error).__name__}: {error}")
    copied.add_note(f"in the worker process of {stage}:\n{lines}")
    return copied
