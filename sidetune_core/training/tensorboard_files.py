"""The TensorBoard files of a run, and the writer that is made when it is first called for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from sidetune_core.errors import WriteError
from sidetune_core.storage.run_files import TENSORBOARD
from sidetune_core.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def tensorboard(folder: RunFolder) -> Iterator[Callable[[], SummaryWriter]]:
    """Replace the TensorBoard files of a run; `RunRecorder.rewind` draws the past again.

    The writer is made when it is first called for, because importing it delays the first step.

    Raises (the writer):
        WriteError: TensorBoard is not installed, or cannot be imported with the libraries that are.
    """
    path = folder.path / TENSORBOARD
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # what stays is drawn twice

    @cache
    def board() -> SummaryWriter:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # also TypeError and others, with a protobuf of another version
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = "to draw curves, run: pip install --upgrade tensorboard"
            raise WriteError(f"TensorBoard cannot be imported ({reason}); {hint}") from error

        return SummaryWriter(str(path))

    try:
        yield board
    finally:
        if board.cache_info().currsize:
            with suppress(OSError):  # reported when it was written to
                board().close()
