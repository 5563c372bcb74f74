"""Small tasks, and a training loop like the core's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    ClassTask,
    Components,
    Examples,
    Features,
    Learner,
    Order,
    TrainingStep,
    seeded,
)
from sidetune_core.interfaces.training import members, split_steps

Make = Callable[..., Any]
Fit = Callable[..., None]


class Net(Base):
    """(6,) to (16,), with batch norm."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (16,)
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.last(self.norm(self.first(inputs["x"])).relu()))


@pytest.fixture
def make() -> Make:
    """Makes a learner of a class with options."""

    def make(cls: type[Learner], **options: Any) -> Learner:
        with seeded(0, "build"):
            return cls(cls.Config(**options), Components({"x": (6,)}, Net))

    return make


@pytest.fixture
def tasks() -> list[ClassTask]:
    """Two tasks of two classes separated by a line, a different line in each task."""
    generator = torch.Generator().manual_seed(0)
    x = {split: torch.randn(count, 6, generator=generator) for split, count in (("train", 80), ("test", 40))}
    lines = torch.randn(2, 6, generator=generator)
    labels = {}
    for split, values in x.items():
        task = torch.arange(len(values)) % 2
        labels[split] = 2 * task + ((values * lines[task]).sum(1) > 0)
    examples = Examples(x, labels)
    return [
        ClassTask(f"t{k}", f"line {k}", examples, [2 * k, 2 * k + 1], input="x", transform=torch.clone)
        for k in range(2)
    ]


@pytest.fixture
def fit() -> Fit:
    """Trains a learner on a task as the core does, with any optimiser."""

    def fit(
        learner: Learner,
        task: ClassTask,
        steps: int = 12,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        **options: Any,
    ) -> None:
        def set_trainable(trainable: Any) -> torch.optim.Optimizer:
            learner.requires_grad_(False).eval()
            for member in members(trainable):
                member.requires_grad_(True)
                if isinstance(member, nn.Module):
                    member.train()
            parameters = [weight for weight in learner.parameters() if weight.requires_grad]
            return optimizer(parameters, **{"lr": 0.05, **options})

        with seeded(0, task.id):
            trainable = learner.start(task)
            batches = task.train(lambda inputs: learner(inputs, task.id), Order(0, 8))
            for phase in split_steps(learner.phases(task), steps):
                if phase.first:
                    with torch.no_grad():
                        trainable = learner.start_phase(task, phase.phase) or trainable
                stepper = set_trainable(trainable)
                for number, batch in enumerate(islice(batches, phase.end - phase.first), phase.first):
                    step = TrainingStep(number, steps, 0, phase, batch_size=8, rows=slice(0, 8))
                    stepper.zero_grad()
                    sum(learner.losses(batch, task, step).values()).backward()
                    learner.after_backward(task, step)
                    stepper.step()
                    learner.after_step(task, step)
            learner.requires_grad_(False).eval()
            learner.finish(task, task.train(lambda inputs: learner(inputs, task.id), Order(1, 8)))

    return fit
