"""A finished run, as Python's `run` and `resume` return it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from torch import Tensor

from sidetune_core.assembly.cards import CardTask
from sidetune_core.assembly.predict import make_predict
from sidetune_core.errors import FitError, SidetuneError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.results.metrics import Results
from sidetune_core.results.summary import read_results
from sidetune_core.rl.rollout_task import TakesObservations
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@attrs.frozen(eq=False)
class Run:
    """A finished run: its folder, its results, and everything that was trained."""

    folder: RunFolder
    learner: Learner
    tasks: Sequence[Task]
    machine: Machine
    is_main: bool = True
    """Whether this is the process that has written the folder; of several, it is the first."""

    @property
    def results(self) -> Results:
        """R on its split: the test split, unless the run was to measure another."""
        return read_results(self.folder)

    def __repr__(self) -> str:
        """The folder and the results, in a line."""
        return f"<Run {self.folder.path}: {self.results!r}>"

    def _repr_html_(self) -> str:
        """Composition, metrics and R, for notebooks."""
        from sidetune_core.results.html_report import html_summary
        from sidetune_core.results.summary import summarise

        return html_summary(summarise(self.folder))

    def to_pandas(self, per: Literal["matrix", "task"] = "matrix") -> pandas.DataFrame:
        """See `Results.to_pandas`."""
        return self.results.to_pandas(per)

    def plot(self) -> Figure:
        """R as a heat map with the titles of the tasks, a matplotlib plot.

        Raises:
            SidetuneError: matplotlib is not installed.
        """
        from sidetune_core.results.figures import heat_map

        return heat_map(self.results, [task.title for task in self.tasks])

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        """The prediction for inputs (B, *shape) by name, in float32 on the CPU.

        Args:
            inputs: a batch. For a task that acts in environments they are observations, which are
                standardised as in training; `Inputs`, as `RolloutTask.prepare` returns them, are passed on.
            task_id: the task that they belong to; None where it is not known (see `Learner.predict`).

        Raises:
            FitError: the learner needs to know the task.
            SidetuneError: the run has no such task.
        """
        task = next((task for task in self.tasks if task.id == task_id), None)
        if task is None and task_id is not None:
            known = ", ".join(task.id for task in self.tasks)
            raise SidetuneError(f"no task '{task_id}' in this run; it has {known}")
        if isinstance(inputs, Inputs):
            prepared = inputs
        elif isinstance(source := task.handler if isinstance(task, CardTask) else task, TakesObservations):
            prepared = source.network_inputs(inputs)
        else:
            prepared = Inputs(dict(inputs))
        try:
            return make_predict(self.learner, task, self.machine)(prepared).cpu()
        except KeyError as error:
            if task_id is not None or error.args != (None,):
                raise
            known = ", ".join(task.id for task in self.tasks)
            name = type(self.learner).__name__
            raise FitError(f"learner {name} needs the task of the examples: pass one of {known}") from error
