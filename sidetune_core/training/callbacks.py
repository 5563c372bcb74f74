"""Read-only callbacks of a run: what was logged, and what was evaluated, for loggers and notebooks.

A callback changes nothing: it is given records, the generators of random numbers are restored after each
call, and an error in one is a warning, after which it is not called again. A run with callbacks has the same
bytes as without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from sidetune_core.results.metrics import Results
from sidetune_core.results.summary import read_results
from sidetune_core.seeding import random_states, set_random_states
from sidetune_core.storage.run_folder import RunFolder


@attrs.frozen
class StepRecord:
    """What was logged after an optimiser step; not every step is."""

    run: Path
    """The run folder."""
    task: str
    """Id of the task that is trained."""
    step: int
    """Steps of the task so far."""
    lr: float | None
    loss: float | None
    """Mean over the steps since the last record; None where there is no loss."""
    metrics: Mapping[str, float]
    """All values of the record by name, those above included."""


@attrs.frozen
class RowRecord:
    """A task is trained, and the tasks so far are evaluated: a row of R."""

    run: Path
    """The run folder."""
    task: str
    """Id of the task that was trained."""
    row: int
    """Index of the row."""

    @property
    def results(self) -> Results:
        """R so far, read from the run folder."""
        return read_results(RunFolder(self.run))


class Callback:
    """Derive from it and override what is needed."""

    def on_step(self, record: StepRecord) -> None:
        """Training metrics were logged."""

    def on_row(self, record: RowRecord) -> None:
        """A row of R was measured."""


class Callbacks:
    """Calls all callbacks of a run.

    Args:
        run: its folder.
        callbacks: in order.
        warning: prints that one has failed.
    """

    def __init__(self, run: Path, callbacks: Sequence[Callback], warning: Callable[[str], None]) -> None:
        self._run, self._callbacks, self._warning = run, list(callbacks), warning

    def step(self, line: Mapping[str, Any]) -> None:
        """Call them with a line of ``metrics.jsonl``."""
        if not self._callbacks:
            return
        values = {name: value for name, value in line.items() if isinstance(value, int | float)}
        loss, lr = values.get("mean_loss"), values.get("lr")
        record = StepRecord(
            self._run, str(line["task"]), int(line["step"]), lr, loss, MappingProxyType(values)
        )
        self._call(lambda callback: callback.on_step(record))

    def row(self, task: str, row: int) -> None:
        """Call them after a row of R."""
        if self._callbacks:
            record = RowRecord(self._run, task, row)
            self._call(lambda callback: callback.on_row(record))

    def _call(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self._callbacks):
            states = random_states()
            try:
                call(callback)
            except Exception as error:  # its own work failed, not that of the run
                self._callbacks.remove(callback)
                name = type(callback).__name__
                self._warning(f"callback {name} failed and is not called again: {error!r}")
            finally:
                set_random_states(states)
