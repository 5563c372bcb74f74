"""The TensorBoard files of a run: curves, images, and the writer that is made when it is first called for."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sidetune_core.errors import WriteError
from sidetune_core.storage.atomic import writing
from sidetune_core.storage.run_files import TENSORBOARD
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.within import EVALUATION
from sidetune_core.training.by_products import ByProducts

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


class Curves:
    """Draws the curves and images of a run in TensorBoard, until that fails.

    Args:
        folder: of the run.
        board: returns TensorBoard's writer; None to draw nothing.
        by_products: reports the first failure.
    """

    def __init__(
        self, folder: RunFolder, board: Callable[[], SummaryWriter] | None, by_products: ByProducts
    ) -> None:
        self._path, self._board, self._by_products = folder.path / TENSORBOARD, board, by_products

    def training(self, line: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl`` as points of curves, one for each metric of its task."""
        if not {"task", "step"} <= line.keys():
            return  # it is damaged, and was reported
        metrics = {
            name: value for name, value in line.items() if name not in ("task", "step", "lr", "mean_loss")
        }
        self.points({f"{line['task']}/{name}": value for name, value in metrics.items()}, line["step"])

    def within(self, line: Mapping[str, Any]) -> None:
        """An evaluation within a task as a point of the curve of each of its metrics."""
        if line.get("kind") == EVALUATION and {"stage", "task", "split", "step", "metrics"} <= line.keys():
            curve = f"{line['stage']}/{line['split']} of {line['task']}"
            metrics = line["metrics"].items()
            self.points({f"{curve}/{name}": value for name, value in metrics}, line["step"])

    def points(self, values: Mapping[str, float | None], step: int) -> None:
        """Add a point to each curve, unless its value is a gap."""
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._write(lambda board: board.add_scalar(name, value, step))  # noqa: B023 - called at once

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Add an image (3, H, W) with values in [0, 1]."""
        self._write(lambda board: board.add_image(name, image, step))

    def _write(self, write: Callable[[SummaryWriter], object]) -> None:
        if self._board is not None and self._by_products.has(self._path):
            with self._by_products.optional(self._path), writing(self._path):
                write(self._board())
