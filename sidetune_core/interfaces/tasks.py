"""Tasks and streams of tasks: what there is to learn, apart from how it is learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.interfaces.former_names import former_members, former_values
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.seeding import derive_seed

Predict = Callable[[Inputs], Tensor]
"""The current learner's output on some inputs, without gradient: how a task evaluates, or collects experience."""


@attrs.frozen(eq=False)
class Batch:
    """Some examples: inputs and targets, both with the batch axis first. `ids` (B,) int64 tells examples apart within the stream."""

    ids: Tensor
    inputs: Inputs
    targets: Tensor


@attrs.frozen
class Order:
    """Which examples come when: a pure function of (seed, task, step), so that a run can go on at any step."""

    seed: int
    batch_size: int
    first_step: int = 0


@former_values("outputs", scores="logits", numbers="regression")
@former_members(
    head="make_head", can_go_on="can_resume_at", lost_within="not_restored", pictures="visualisations"
)
class Task(ABC):
    """One problem: its data, its head, its loss and its metrics."""

    id: str
    """Names the task within its stream; letters, digits and ``-``."""
    title: str
    """For people, such as ``apple to boy``."""
    inputs: InputShapes
    metric: str = "accuracy"
    """Which of the figures of `evaluate` goes into R."""
    higher_is_better: bool = True
    outputs: Literal["logits", "regression"] = "logits"
    """What the head gives along axis 1: scores of classes, or numbers that are compared as they are."""
    splits: tuple[str, ...] = ("test",)
    """What `evaluate` can be asked for."""
    not_restored: str = ""
    """What does not come back where a run goes on in the middle of this task, for people; empty if all does."""

    @abstractmethod
    def make_head(self, shape: Shape) -> nn.Module:
        """A new output layer on encodings (B, *shape)."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches make one pass over the training data."""

    @abstractmethod
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Training batches without end, beginning at ``order.first_step``. `predict` is for tasks that collect their own experience."""

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        """Whether `train` can begin at that step. A run is saved, and goes on, at such steps only."""
        return True

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """(B,), one loss per example: the loop takes the mean, and methods such as EWC need the single ones."""

    @abstractmethod
    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Named figures over a whole split, `metric` among them."""

    def documents(self) -> Mapping[str, str]:
        """What the latest `evaluate` leaves besides figures, such as predictions: text by file name, kept in the run's folder."""
        return {}

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        """Pictures of what the learner does with some examples, by name (letters, digits and ``-``): (3, H, W) in [0, 1].

        The core asks for them after each task of a stream, and puts them into the run's folder and into TensorBoard.
        """
        return {}

    def record(self) -> dict[str, float]:
        """Figures of training that are worth a curve, such as the return of the latest episodes."""
        return {}

    def state(self) -> dict[str, Any]:
        """What training has made of the task itself, such as running means of its observations; goes into checkpoints. Plain values."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most tasks have none
        """Take over what `state` gave."""


@former_members(parts="default_components", say="info", vocabulary="vocabulary_size")
class TaskStream(ABC):
    """An env: a named stream of tasks. A subclass has a ``Config`` and takes ``(config, seed)``."""

    Config: ClassVar[type[Any]]
    recipe: ClassVar[Mapping[str, object]] = {}
    """Defaults of ``--train.*`` options that suit this env, such as ``{"steps": 157}``."""
    default_components: ClassVar[Mapping[str, str | Mapping[str, object]]] = {}
    """Parts that suit this env where a spec names none, such as ``{"base": {"name": "taskonomy", "width": 10}, "side": "fcn5"}``."""
    inputs: InputShapes
    """Shapes of the inputs of every task, known before any data is read."""
    info: Callable[[str], None] = staticmethod(lambda text: None)
    """Tell the user something while `tasks` is at work for long; the core sets it, and by default nothing is shown."""

    @property
    def vocabulary_size(self) -> int | None:
        """How many tokens there are, where inputs are tokens: the base must have an embedding for each.

        Raises:
            DataError: the tokenizer is missing or damaged.
        """
        return None

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """All tasks, in order. Data is read here, not before.

        Raises:
            DataError: the data is missing, unreadable, or not what it should be.
        """

    def fingerprint(self) -> str:
        """Equal only for equal data and transforms, so that stored base outputs may be shared between runs; empty if unknown."""
        return ""

    def close(self) -> None:  # noqa: B027 - most streams hold nothing open
        """Let go of files, workers and simulators."""


def states(tasks: Sequence[Task]) -> dict[str, Any]:
    """What each task holds itself, by id; those that hold nothing are left out."""
    return {task.id: state for task in tasks if (state := task.state())}


def shuffled(count: int, order: Order, *names: object) -> Iterator[Tensor]:
    """Indices (batch_size,) into `count` examples without end: one random permutation after another, never a short batch.

    The permutation of pass p depends on (order.seed, names, p) only.
    """
    position = order.first_step * order.batch_size
    number, offset = divmod(position, count)
    rest = _permutation(count, order.seed, *names, number)[offset:]
    while True:
        while len(rest) < order.batch_size:
            number += 1
            rest = torch.cat([rest, _permutation(count, order.seed, *names, number)])
        yield rest[: order.batch_size]
        rest = rest[order.batch_size :]


def _permutation(count: int, seed: int, *names: object) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", *names))
    return torch.randperm(count, generator=generator)
