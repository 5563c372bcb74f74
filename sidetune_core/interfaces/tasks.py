"""Tasks and streams of tasks: data, head, loss and metrics, independent of the adaptation method."""

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
"""The current learner's output for some inputs, without gradient, for evaluation and rollouts."""


@attrs.frozen(eq=False)
class Batch:
    """A batch of examples: inputs and targets, with the batch axis first."""

    ids: Tensor
    """(B,) int64, unique for each example of the stream."""
    inputs: Inputs
    targets: Tensor


@attrs.frozen
class Order:
    """The order of training examples, a function of (seed, task, step), so runs can resume anywhere."""

    seed: int
    batch_size: int
    first_step: int = 0


@former_values("outputs", scores="logits", numbers="regression")
@former_members(
    head="make_head", can_go_on="can_resume_at", lost_within="not_restored", pictures="visualisations"
)
class Task(ABC):
    """One problem to train on: its data, head, loss and metrics."""

    id: str
    """Unique within its stream; letters, digits and ``-``."""
    title: str
    """A title for reports, such as ``apple to boy``."""
    inputs: InputShapes
    metric: str = "accuracy"
    """Name of the metric of `evaluate` that R records."""
    higher_is_better: bool = True
    outputs: Literal["logits", "regression"] = "logits"
    """The head's outputs along axis 1: logits of classes, or values to regress."""
    splits: tuple[str, ...] = ("test",)
    """Splits that `evaluate` accepts."""
    not_restored: str = ""
    """Message about state that is lost when a run resumes within this task; empty if there is none."""

    @abstractmethod
    def make_head(self, shape: Shape) -> nn.Module:
        """A new output layer on encodings (B, *shape)."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in one epoch."""

    @abstractmethod
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Training batches without end, from step ``order.first_step``; rollout tasks act with `predict`."""

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        """Whether `train` can begin at a step; the core writes checkpoints and resumes at such steps only."""
        return True

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """(B,), one loss per example; the training loop takes the mean, methods such as EWC use each."""

    @abstractmethod
    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Metrics by name over a whole split, including `metric`."""

    def documents(self) -> Mapping[str, str]:
        """Text by file name from the latest `evaluate`, such as predictions; saved in the run folder."""
        return {}

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        """Images of predictions for some examples, (3, H, W) in [0, 1], by name (letters, digits and ``-``).

        The core calls this after each task of a stream, and writes the images to the run folder and
        TensorBoard.
        """
        return {}

    def record(self) -> dict[str, float]:
        """Scalars to log during training, such as the return of the latest episodes."""
        return {}

    def state(self) -> dict[str, Any]:
        """The task's own state for checkpoints, as plain values, such as running means of observations."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most tasks have none
        """Restore what `state` returned."""


@former_members(parts="default_components", say="info", vocabulary="vocabulary_size")
class TaskStream(ABC):
    """An env: a named stream of tasks. A subclass has a ``Config`` and takes ``(config, seed)``."""

    Config: ClassVar[type[Any]]
    recipe: ClassVar[Mapping[str, object]] = {}
    """Defaults of ``--train.*`` options for this env, such as ``{"steps": 157}``."""
    default_components: ClassVar[Mapping[str, str | Mapping[str, object]]] = {}
    """Default components, such as ``{"base": {"name": "taskonomy", "width": 10}, "side": "fcn5"}``."""
    inputs: InputShapes
    """Input shapes of every task, known before any data is read."""
    info: Callable[[str], None] = staticmethod(lambda text: None)
    """Show the user a progress message while `tasks` reads data; set by the core, and silent by default."""

    @property
    def vocabulary_size(self) -> int | None:
        """Number of tokens, if the inputs are tokens; the base must have an embedding for each of them.

        Raises:
            DataError: the tokenizer is missing or damaged.
        """
        return None

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """All tasks, in order. Data is read here, not before.

        Raises:
            DataError: the data is missing, unreadable or invalid.
        """

    def fingerprint(self) -> str:
        """Equal only for equal data and transforms, so runs can share cached features; empty if unknown."""
        return ""

    def close(self) -> None:  # noqa: B027 - most streams hold nothing open
        """Close files, workers and simulators."""


def states(tasks: Sequence[Task]) -> dict[str, Any]:
    """The `state` of each task by id, without empty ones."""
    return {task.id: state for task in tasks if (state := task.state())}


def shuffled(count: int, order: Order, *names: object) -> Iterator[Tensor]:
    """Indices (batch_size,) into `count` examples without end: random permutations, one after another.

    No batch is incomplete. The permutation of epoch e depends on (order.seed, names, e) only.
    """
    position = order.first_step * order.batch_size
    epoch, offset = divmod(position, count)
    rest = _permutation(count, order.seed, *names, epoch)[offset:]
    while True:
        while len(rest) < order.batch_size:
            epoch += 1
            rest = torch.cat([rest, _permutation(count, order.seed, *names, epoch)])
        yield rest[: order.batch_size]
        rest = rest[order.batch_size :]


def _permutation(count: int, seed: int, *names: object) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", *names))
    return torch.randperm(count, generator=generator)
