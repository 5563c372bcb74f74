"""Everything that is reported about one run, as a record."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sidetune_core.config.plugin_record import PluginRecord
from sidetune_core.config.selection import Selection
from sidetune_core.config.spec import RunSpec
from sidetune_core.results.anytime import Curves
from sidetune_core.results.metrics import Results
from sidetune_core.results.run_data import EnvData
from sidetune_core.storage.status import has_diverged, has_ended

TRAINABLE = "trainable per task"
"""Key of `RunSummary.parameters` for the number of trainable parameters of a typical task."""


@attrs.frozen
class ChangedTensors:
    """The tensors that training one task changed."""

    task: str
    changed: Mapping[str, int]
    """Number of changed tensors by component, such as ``base`` or ``heads.t0``."""
    kept: int
    """Number of bit-identical tensors."""


@attrs.frozen
class RunSummary:
    """Everything that is reported about one run."""

    name: str
    spec: RunSpec
    """The resolved spec: every component and option."""
    spec_line: str
    """The spec in a line: "icifar · resnet44 + fcn4 · mlp2 · sidetune · seed 0"."""
    results: Results
    changed: tuple[ChangedTensors, ...]
    parameters: Mapping[str, int]
    """Numbers of parameters: ``"all"`` and `TRAINABLE`."""
    seconds: float | None
    """None if they were not measured."""
    status: str
    folder: str
    certificate: tuple[str, ...] = ()
    """The certificate in lines."""
    processor_seconds: float | None = None
    peak_memory: int | None = None
    """In bytes."""
    cache_bytes_per_example: float | None = None
    """Of the feature cache; None if unknown."""
    step_of_fine_tuning: float | None = None
    """Multiply-adds of a training step of side-tuning, in those of fine-tuning the base; None if unknown."""
    gaps: tuple[str, ...] = ()
    """Evaluations without metric, because a value is not finite: which task, when, and why."""
    other_metrics: Mapping[str, float] = attrs.field(factory=dict)
    """All metrics of the tasks at the end of the run, averaged over tasks."""
    plugins: Mapping[str, PluginRecord] = attrs.field(factory=dict)
    """The components with which the run began, by slot."""
    plugin_changes: tuple[str, ...] = ()
    """Plugins and conditions that are others than those of its spec, and what changed while the run was
    interrupted, in lines."""
    extensions: tuple[str, ...] = ()
    """The tasks that were added when the run had finished, in lines."""
    network: str = ""
    """Class and digest of the network that Python gave as base; empty if it was chosen by name."""
    carried: tuple[str, ...] = ()
    """The values of R that an earlier version carried over to an extension, in lines."""
    unchanged: str = ""
    """How many values of R are those of the row before, in a sentence; empty if none is."""
    classes: tuple[str, ...] = ()
    """Classes that are recognised badly, and confusions, at the end of the run, in lines."""
    data: tuple[EnvData, ...] = ()
    """The data of each of its envs; empty if unknown."""
    with_task_id: Results | None = None
    """R of predictions with the task id, in a scenario in which `results` are those without."""
    task_confusions: tuple[str, ...] = ()
    """Between which tasks predictions without the task id are confused, in lines."""
    stored: Mapping[str, int] = attrs.field(factory=dict)
    """Bytes of weights, exemplars and statistics that the learner stores at the end; empty if unknown."""
    energy: float | None = None
    """Of the machine's processors during the run, in joules; None if unknown."""
    curves: Curves | None = None
    """The evaluations within its tasks; None if there are none, or they cannot be averaged."""
    training: tuple[str, ...] = ()
    """Where training stopped early, which weights were kept, and whether an epoch was a single pass, in
    lines."""
    titles: tuple[str, ...] = ()
    """Of its tasks, such as their class names; empty if unknown."""
    left_out: tuple[str, ...] = ()
    """Damaged files, in lines; what they have is missing here."""
    selection: Selection = Selection()
    """The tasks of the env that were trained, and the split of R."""

    @property
    def diverged(self) -> bool:
        """Whether a loss, an output or a metric was not finite: means and ranks leave the run out."""
        return has_diverged(self.status)

    @property
    def ended(self) -> bool:
        """Whether the run is done or has diverged."""
        return has_ended(self.status)
