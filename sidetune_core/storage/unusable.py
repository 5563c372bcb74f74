"""Files of checkpoints that are missing or damaged, as opposed to those that cannot be read at present."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune_core.errors import RunError

WRONG_CONTENT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What is raised where JSON is damaged, or of another form."""


class Unusable(Exception):
    """A file of a chain is missing, damaged, or follows another file than the one in the folder.

    Args:
        path: of the file.
        reason: ``is missing`` or ``is damaged (…)``.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path


@contextmanager
def at_present(path: Path) -> Iterator[None]:
    """Tell a file that is missing or damaged from one that the system cannot read at present.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise Unusable(path, "is missing") from error
    except ValueError as error:
        raise Unusable(path, f"is damaged ({error})") from error
    except OSError as error:
        if error.errno is None or isinstance(error, IsADirectoryError):
            raise Unusable(path, f"is damaged ({error})") from error
        raise RunError(f"cannot read {path}: {error.strerror}; nothing was changed") from error


def explain(error: Exception) -> str:
    """Why JSON is damaged, for a message; `error` is one of `WRONG_CONTENT`."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)
