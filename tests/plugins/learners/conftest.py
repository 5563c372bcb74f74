"""Fixtures for learners: a tiny linear base and side, and tasks on random vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Batch,
    ClassTask,
    Components,
    Examples,
    Features,
    InputShapes,
    Learner,
    Merger,
    Order,
    Phase,
    Side,
    Task,
    TrainingStep,
    seeded,
)
from sidetune_core.config.choice import Choice
from sidetune_core.config.kinds import BASE, LEARNER, MERGER, SIDE, Kind
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.config.registry import find, load
from sidetune_core.interfaces.training import PhaseSteps
from sidetune_core.storage.weights import write_tensors
from sidetune_core.training.optimizer import make_optimizer

INPUTS: InputShapes = {"x": (6,)}


class TinyBase(Base):
    """(6,) to (16,): linear and batch norm, whose statistics reveal a base left in training mode."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape, self.tap_shapes = (16,), ((6,),)
        self.linear = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.norm(self.linear(inputs["x"])), (inputs["x"],))


class TinySide(Side):
    """(6,) to (16,), with batch norm."""

    def __init__(self, base: Base, pretrained: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(6, *base.shape)
        self.norm = nn.BatchNorm1d(*base.shape)

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return self.norm(self.linear(inputs["x"])).tanh()


@attrs.frozen
class World:
    """Tasks and functions for a learner's tests."""

    tasks: tuple[Task, ...]

    def learner(
        self,
        name: str,
        *,
        base: Callable[..., Base] = TinyBase,
        side: bool = True,
        merger: str | None = "alpha",
        **options: Any,
    ) -> Any:
        """A built-in learner with tiny components."""
        cls = load(find(LEARNER, name))
        make_merger = None
        if merger is not None:
            kind = load(find(MERGER, merger))

            def make_merger(base: Base, count: int) -> Merger:
                made: Merger = kind(kind.Config(), base.shape, count)
                return made

        components = Components(INPUTS, base, TinySide if side else None, make_merger)
        with seeded(0, "build"):
            return cls(cls.Config(**options), components)

    def start(self, learner: Learner, task: Task) -> list[nn.Module | nn.Parameter]:
        """Start a task, freeze everything, and set what the learner returns trainable, as the core does."""
        with seeded(0, "start", task.id):
            trainable = learner.start(task)
        learner.requires_grad_(False).eval()
        for target in trainable:
            target.requires_grad_(True)
            if isinstance(target, nn.Module):
                target.train()
        return trainable

    def losses(self, learner: Learner, batch: Batch, task: Task) -> dict[str, Tensor]:
        """The learner's losses in the first step of ten, and their sum as ``all``."""
        step = TrainingStep(0, 10, 0, PhaseSteps(Phase(), 0, 10), len(batch.targets))
        losses = dict(learner.losses(batch, task, step))
        return {**losses, "all": torch.stack([*losses.values()]).sum()}

    def train(self, learner: Learner, task: Task, steps: int = 3, **options: Any) -> None:
        """Take `steps` steps on a started task; afterwards everything is frozen and in eval mode."""
        for _ in self.steps(learner, task, steps, **options):
            pass

    def steps(self, learner: Learner, task: Task, steps: int = 3, **options: Any) -> Iterator[None]:
        """`train` that yields after each step."""
        optimizer = make_optimizer(learner, TrainOptions(lr=0.05, weight_decay=0.01, **options))
        batches = task.train(lambda inputs: learner(inputs, task.id), Order(0, 8))
        for _ in range(steps):
            batch = next(batches)
            optimizer.zero_grad()
            self.losses(learner, batch, task)["all"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield
        learner.finish(task, batches)
        learner.requires_grad_(False).eval()


@pytest.fixture
def world() -> World:
    generator = torch.Generator().manual_seed(0)
    examples = Examples(
        {"train": torch.randn(60, 6, generator=generator), "test": torch.randn(30, 6, generator=generator)},
        {"train": torch.arange(60) % 6, "test": torch.arange(30) % 6},
    )
    tasks = [
        ClassTask(f"t{k}", f"task {k}", examples, [2 * k, 2 * k + 1], input="x", transform=torch.Tensor.float)
        for k in range(3)
    ]
    return World(tuple(tasks))


Snapshot = Callable[[nn.Module], dict[str, Tensor]]


@pytest.fixture
def snapshot() -> Snapshot:
    """A copy of every tensor of a module's state."""
    return lambda module: {key: value.clone() for key, value in module.state_dict().items()}


class Pretrained(TinyBase):
    """A tiny base whose pretrained weights are the same each time."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        if pretrained:
            for index, value in enumerate(self.state_dict().values()):
                value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(index)))


@pytest.fixture
def pretrained() -> type[Base]:
    """A class of tiny bases with pretrained weights."""
    return Pretrained


@attrs.frozen
class Chosen:
    """A small base and side with weights in files, so that runs start with the same weights."""

    base: Choice
    side: Choice


@pytest.fixture(scope="session")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """``resnet20`` and ``fcn4`` with random weights in files."""
    images: InputShapes = {"image": (3, 32, 32)}
    folder = tmp_path_factory.mktemp("weights")

    def choose(kind: Kind, name: str, *base: Base) -> tuple[Choice, Any]:
        cls = load(find(kind, name))
        with seeded(0, name):
            component = cls(cls.Config(weights="none"), images, *base)
        path = folder / f"{name}.safetensors"
        write_tensors(path, component.state_dict())
        return Choice(name, {"weights": str(path)}), component

    base, built = choose(BASE, "resnet20")
    side, _ = choose(SIDE, "fcn4", built)
    return Chosen(base, side)
