"""Learners under examination: with which components, on which tasks, and how they are trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.assembly.build import restart_task
from sidetune_core.assembly.predict import make_predict
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side, taps_read
from sidetune_core.interfaces.tasks import Order, Task
from sidetune_core.storage.atomic import not_synced
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.new_run import create_run
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequest
from sidetune_core.testing import sample
from sidetune_core.testing.attributes import watched_training
from sidetune_core.testing.findings import SEED
from sidetune_core.testing.state import building
from sidetune_core.testing.stream import network
from sidetune_core.testing.witness import Witness
from sidetune_core.training.boundary import Boundary
from sidetune_core.training.context import Context
from sidetune_core.training.loop import learn
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.run_recorder import RunRecorder

OPTIONS = TrainOptions(steps=3, batch_size=8, lr=0.01)
MACHINE = Machine(torch.device("cpu"), bf16=False, channels_last=False)

MakeTasks = Callable[[], Sequence[Task]]


@attrs.frozen(eq=False, slots=False)
class Subject:
    """A learner with components and tasks; a call builds a new one."""

    cls: type[Any]
    config: Any
    components: Components
    tasks: MakeTasks
    machine: Machine = MACHINE
    options: TrainOptions = OPTIONS
    is_own: bool = True
    """Whether components and tasks are the kit's own, of which there are others."""

    def __call__(self, seed: int = SEED) -> Learner:
        with building(seed, "build"):
            learner: Learner = self.cls(self.config, self.components)
        return learner

    def of_shape(self, shape: Shape) -> Subject:
        """The same with a base of another shape."""
        has_side, has_merger = self.components.side is not None, self.components.merger is not None
        return attrs.evolve(self, components=own_components(shape, has_side, has_merger))

    @cached_property
    def trained(self) -> Witness:
        """A learner trained on the tasks, for checks that do not change it."""
        learner = self()
        with watched_training(learner) as reads:
            witness = self.train(learner)
            outputs(learner, self)
        witness.reads_of_training = list(dict.fromkeys(reads))
        return witness

    def train(
        self,
        learner: Learner,
        path: Path | None = None,
        tasks: Sequence[Task] | None = None,
        last_step: int | None = None,
    ) -> Witness:
        """Train like a run, in folder `path` or a temporary one, up to `last_step`."""
        if path is None:
            with tempfile.TemporaryDirectory() as folder, not_synced():
                return self.train(learner, Path(folder) / "run", tasks)
        witness = Witness(learner, stop := StopRequest(), last_step)
        run = RunFolder(path) if path.exists() else create_run(path, "check")
        recorder = _KitRecorder(run, Progress(quiet=True), Clock(run, MACHINE.peak_memory), witness=witness)
        self._learn(witness, tasks, stop, recorder)
        return witness

    def train_unrecorded(self, learner: Learner, tasks: Sequence[Task] | None = None) -> None:
        """Train like a run, whose weights only are of interest: no checkpoint, certificate or curve is
        written."""
        stop = StopRequest()
        self._learn(Witness(learner, stop, None), tasks, stop, Recorder(RunFolder(Path())))

    def _learn(
        self, witness: Witness, tasks: Sequence[Task] | None, stop: StopRequest, recorder: Recorder
    ) -> None:
        cache = FeatureCache(limit=2**26, taps=taps_read(witness.learner), info=lambda _: None)
        context = Context(self.options, SEED, self.machine, cache=cache, stop=stop)
        learn(witness, self.tasks() if tasks is None else tasks, context, recorder)

    def start_all(self, learner: Learner, seed: int = SEED) -> None:
        """Start every task."""
        for task in self.tasks():
            restart_task(learner, task, seed, self.machine)


class _KitRecorder(RunRecorder):
    """Notes for a witness what the loop has found out about the learner."""

    def __init__(self, *args: Any, witness: Witness) -> None:
        super().__init__(*args)
        self._witness = witness

    def save_boundary(self, boundary: Boundary, context: Context) -> None:
        super().save_boundary(boundary, context)
        names = (name.removeprefix("learner.") for name in boundary.tracked.writes_unseen)
        self._witness.unseen_writes = list(names)


def outputs(learner: Learner, subject: Subject, count: int | None = None) -> list[Tensor]:
    """Outputs for the first training batch of every task, or for some examples of it."""
    return [
        make_predict(learner, task, subject.machine)(first_inputs(task, subject.options.batch_size, count))
        for task in subject.tasks()
    ]


def first_inputs(task: Task, batch_size: int, count: int | None = None, *, ids: bool = False) -> Inputs:
    """The first training inputs of a task, without ids unless asked for."""
    inputs = next(task.train(network(task), Order(SEED, batch_size))).inputs
    return Inputs(
        {name: value[:count] for name, value in inputs.items()},
        ids=inputs.ids[:count] if ids and inputs.ids is not None else None,
        lengths=None if inputs.lengths is None else inputs.lengths[:count],
    )


def own_components(shape: Shape, side: bool = False, merger: bool = False) -> Components:
    """The kit's components, with a base of some shape."""

    def make_base(pretrained: bool = True) -> Base:
        return sample.TinyBase(shape)

    def make_side(base: Base, pretrained: bool = True) -> Side:
        return sample.TinySide(base.shape)

    def make_merger(base: Base, count: int) -> Merger:
        return sample.TinyMerger(count)

    return Components(sample.INPUTS, make_base, make_side if side else None, make_merger if merger else None)
