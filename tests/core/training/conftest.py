"""Small learners, trained by the loop on the tasks of the conformance kit."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from sidetune_core.api import Components, Heads, Learner, Task, Trainable, TrainingStep
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.networks import Base
from sidetune_core.seeding import seeded
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.new_run import create_run
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequest
from sidetune_core.testing import sample
from sidetune_core.training.context import Context
from sidetune_core.training.loop import learn
from sidetune_core.training.run_recorder import RunRecorder

MACHINE = Machine(torch.device("cpu"), bf16=False, channels_last=False)


@attrs.frozen
class Config:
    """No options."""


class Plain(Learner):
    """Trains a linear layer and a head on a frozen base."""

    Config = Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.layer = torch.nn.Linear(8, 8)
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> Trainable:
        return [self.layer, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.layer(self.base(inputs).encoding), task_id)


def make_base(pretrained: bool = True) -> Base:
    return sample.TinyBase((8,))


@attrs.frozen
class Training:
    """Trains learners in folders below `path`."""

    path: Path
    plain: type[Learner] = Plain

    def make(self, cls: type[Learner]) -> Learner:
        with seeded(0, "build"):
            return cls(Config(), Components(sample.INPUTS, make_base))

    def learn(
        self,
        learner: Learner,
        name: str = "run",
        tasks: Sequence[Task] | None = None,
        stop_after: int = 0,
        stop: StopRequest | None = None,
        cache: FeatureCache | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Train a learner in a new folder or, if it exists, from its latest checkpoint.

        With `stop_after`, a stop is requested after so many steps. Returns the lines of ``metrics.jsonl``.
        """
        path = self.path / name
        run = RunFolder(path) if path.exists() else create_run(path, "test")
        recorder = RunRecorder(run, Progress(quiet=True), Clock(run, MACHINE.peak_memory))
        values = {"steps": 4, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "momentum": 0.0, **options}
        stop = stop or StopRequest()
        if stop_after:
            steps = iter(range(1, stop_after + 1))
            after_step = learner.after_step

            def count(task: Task, step: TrainingStep) -> None:
                after_step(task, step)
                if next(steps) == stop_after:
                    stop.number = signal.SIGTERM

            learner.after_step = count  # type: ignore[method-assign]
        context = Context(TrainOptions(**values), 0, MACHINE, cache=cache, stop=stop)
        learn(learner, tasks or sample.tasks(), context, recorder)
        return run.lines("metrics.jsonl")


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)
