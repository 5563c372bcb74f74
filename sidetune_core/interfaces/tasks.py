"""Tasks and streams of tasks: data, head, loss and metrics, independent of the adaptation method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.interfaces.outputs import Outputs, OutputsMember, as_outputs
from sidetune_core.seeding import derive_seed

if TYPE_CHECKING:
    from sidetune_core.supervised.dataset_task import DatasetTask

Predict = Callable[[Inputs], Tensor]
"""The current learner's output for some inputs, without gradient, for evaluation and rollouts."""


@attrs.frozen(eq=False)
class Batch:
    """A batch of examples: inputs and targets, with the batch axis first."""

    ids: Tensor
    """(B,) int64, unique for each example of the task, or of the stream (see `TaskStream.shared_ids`)."""
    inputs: Inputs
    targets: Tensor

    def rows(self, index: slice | Tensor) -> Batch:
        """Some of the examples: a slice, or numbers or a mask of them (B,)."""
        return Batch(self.ids[index], self.inputs.rows(index), self.targets[index])


@attrs.frozen
class Order:
    """The order of training examples, a function of (seed, task, step), so runs can resume anywhere."""

    seed: int
    batch_size: int
    first_step: int = 0


@former_members(
    head="make_head", can_go_on="can_resume_at", lost_within="not_restored", pictures="visualisations"
)
class Task(ABC):
    """One problem to train on: its data, head, loss and metrics.

    What it can do beyond this contract, such as showing images or resuming at some steps only, is in
    `sidetune_core.interfaces.capabilities`.
    """

    id: str
    """Unique within its stream; letters, digits and ``-``."""
    title: str
    """A title for reports, such as ``apple to boy``."""
    inputs: InputShapes
    metric: str = "accuracy"
    """Name of the metric of `evaluate` that R records."""
    higher_is_better: bool = True
    outputs: Outputs = OutputsMember()  # type: ignore[assignment]  # a data descriptor
    """What the head's outputs along axis 1 are, their number and names."""
    splits: tuple[str, ...] = ("test",)
    """Splits that `evaluate` accepts: ``test``, on which R is measured, and ``val`` where there is one, on
    which everything that is selected is selected. ``train`` may be among them."""

    @abstractmethod
    def make_head(self, shape: Shape) -> nn.Module:
        """A new output layer on encodings (B, *shape)."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in one epoch.

        Raises:
            OptionError: it is unknown; the task is trained for a number of steps, all of them in epoch 0.
        """

    @abstractmethod
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Training batches without end, from step ``order.first_step``; rollout tasks act with `predict`."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """(B,), one loss per example; the training loop takes the mean, methods such as EWC use each."""

    @abstractmethod
    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Metrics by name over a whole split, including `metric`."""

    @staticmethod
    def from_dataset(
        train: Any,
        test: Any,
        val: Any = None,
        *,
        id: str | None = None,
        title: str | None = None,
        classes: Sequence[Any] | None = None,
        labels: Sequence[str] | None = None,
        values: Sequence[str] | int | None = None,
        input: str = "image",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        image_size: int | None = None,
        workers: int = 0,
        class_weights: Literal["none", "balanced"] = "none",
        sampling: Literal["uniform", "balanced"] = "uniform",
        data: str = "",
    ) -> DatasetTask:
        """A supervised task on torch Datasets, for ``sidetune_core.run(tasks=[...])``.

        An example is a pair (inputs, target), or a dict. Inputs are a tensor, an array or a Pillow image, or
        a dict of these by name. At most one of `classes`, `labels` and `values` is given.

        Args:
            train: map-style, or iterable, with examples for training.
            test: with examples on which R is measured.
            val: with examples for selection; None for none.
            id: letters, digits and ``-``; None for ``t0``, ``t1``, … by position.
            title: for reports; None for the names of the classes.
            classes: one of several classes: their labels in order, or the names of labels 0, 1, …; None for
                all labels of the training examples, sorted.
            labels: any number of labels, by name; a target is a vector of 0 and 1, or a list of names.
            values: values to regress: their number, or their names.
            input: name of the input, if an example has only one.
            transform: applied to the inputs.
            target_transform: applied to the target.
            image_size: height and width to which the centre square of Pillow images is resized.
            workers: processes that read ahead.
            class_weights: whether the training loss weights classes by their inverse frequency.
            sampling: whether training examples are drawn uniformly, or each class equally often.
            data: a name for this version of the data, in place of a fingerprint of it.

        Raises:
            DataError: a dataset is empty, has no length, raises, or returns something else.
            OptionError: an argument is of another type, or does not fit the others.
        """
        from sidetune_core.supervised.from_dataset import from_dataset  # see the contract 'layers'

        return from_dataset(
            train,
            test,
            val,
            id=id,
            title=title,
            classes=classes,
            labels=labels,
            values=values,
            input=input,
            transform=transform,
            target_transform=target_transform,
            image_size=image_size,
            workers=workers,
            class_weights=class_weights,
            sampling=sampling,
            data=data,
        )

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if isinstance(outputs := vars(cls).get("outputs"), Outputs | str):
            cls.outputs = OutputsMember(as_outputs(outputs))  # type: ignore[assignment]


def mean_loss(task: Task, output: Tensor, batch: Batch) -> Tensor:
    """The mean of a task's loss over a batch, for the outputs (B, ...) of its head; computed in float32."""
    with torch.autocast(output.device.type, enabled=False):
        return task.loss(output.float(), batch).mean()


@attrs.frozen
class DataPart:
    """A part of an env's data, such as the files of a class."""

    count: int
    """Number of examples or files."""
    digest: str
    """Equal only for equal content, as far as the env compares it."""


@former_members(parts="default_components", say="info", vocabulary="vocabulary_size")
class TaskStream(ABC):
    """An env: a named stream of tasks. A subclass has a ``Config`` and takes ``(config, seed)``."""

    Config: ClassVar[type[Any]]
    recipe: ClassVar[Mapping[str, object]] = {}
    """Defaults of options for this env: ``{"steps": 157}`` for ``--train.steps``, ``{"device.precision":
    "fp32"}``, and ``{"learner.sidetune.begin": "base"}`` for an option of a component, where that is used."""
    default_components: ClassVar[Mapping[str, str | Mapping[str, object]]] = {}
    """Default components, such as ``{"base": {"name": "taskonomy", "width": 10}, "side": "fcn5"}``."""
    shared_ids: ClassVar[bool] = False
    """Whether an id is the same input in all tasks, so that cached features are shared between tasks."""
    inputs: InputShapes
    """Input shapes of every task, known before any data is read."""
    info: Callable[[str], None] = staticmethod(lambda text: None)
    """Show the user a progress message while `tasks` reads data; set by the core, and silent by default."""
    trust_local_code: bool = False
    """Whether names of code in the data, such as ``module:Class``, may be imported; set by the core before
    `tasks`."""

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """All tasks, in order. Data is read here, not before.

        Raises:
            DataError: the data is missing, unreadable or invalid.
        """

    def fingerprint(self) -> str:
        """Equal only for equal data and transforms, so runs can share cached features; empty if unknown."""
        return ""

    def data_fingerprint(self) -> str:
        """Equal only for equal data, targets included; empty if unknown. A run is resumed on equal data.

        By default `fingerprint`; override it where that covers the inputs only.
        """
        return self.fingerprint()

    def data_parts(self) -> Mapping[str, DataPart]:
        """What the data consists of, after `tasks`, by a name such as ``acme/train/cat``; empty if unknown.

        A run records this, so that a message about changed data can say what has changed. The first component
        of a name is the id of a task. If it is empty, the parts of the tasks are recorded (see
        `HasDataParts`).
        """
        return {}

    def content_fingerprint(self) -> str:
        """Equal only for equal data, whatever the run's seed draws from them, such as a split; empty if
        unknown. Comparisons of runs tell by this whether runs with different seeds had the same data.
        """
        return ""

    def close(self) -> None:  # noqa: B027 - most streams hold nothing open
        """Close files, workers and simulators."""


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
