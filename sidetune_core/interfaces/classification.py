"""Classification tasks on tensors in memory: the shortest way to write an env."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.errors import DataError
from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, shuffled
from sidetune_core.seeding import derive_seed

EVALUATION_BATCH = 250
"""Batch size of `evaluate`."""

Transform = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


@attrs.frozen(eq=False)
class Examples:
    """All examples of a stream, by split.

    `inputs[split]` is (N, ...) of any dtype, `labels[split]` (N,) int64. Example ids count through the splits
    in order.
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    def first_id(self, split: str) -> int:
        """The id of the first example of `split`."""
        names = list(self.inputs)
        return sum(len(self.labels[name]) for name in names[: names.index(split)])

    def fingerprint(self, transform: str) -> str:
        """SHA-256 of all examples and of `transform`, the name of their preprocessing."""
        tensors = {f"inputs.{name}": value for name, value in self.inputs.items()}
        tensors |= {f"labels.{name}": value for name, value in self.labels.items()}
        return hashlib.sha256(f"{transform}/{fingerprint(tensors)}".encode()).hexdigest()


class ClassTask(Task):
    """Classify some classes of a set of `Examples`; labels are renumbered 0, 1, … in the order of `classes`.

    Args:
        id: see `Task`.
        title: see `Task`.
        examples: all examples of the stream.
        classes: labels of this task; examples with other labels are not used.
        input: name of the input tensor.
        transform: preprocessing of a batch of stored inputs; a function of each example alone.
        augment: random augmentation of a batch of stored inputs in training, before `transform`.
        class_names: names of the classes, in their order; empty if there are none.

    Raises:
        DataError: a split has no example of these classes.
    """

    def __init__(
        self,
        id: str,
        title: str,
        examples: Examples,
        classes: Sequence[int],
        *,
        input: str = "image",
        transform: Transform,
        augment: Augment | None = None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        self.id, self.title, self.input = id, title, input
        self.inputs = {input: tuple(transform(examples.inputs["train"][:1]).shape[1:])}
        self.splits = tuple(split for split in examples.inputs if split != "train")
        self._examples, self._transform, self._augment = examples, transform, augment
        self._classes = len(classes)
        self.outputs = attrs.evolve(type(self).outputs, size=len(classes), names=class_names)
        order = torch.tensor(list(classes))
        self._indices = {
            split: torch.isin(labels, order).nonzero()[:, 0] for split, labels in examples.labels.items()
        }
        for split, indices in self._indices.items():
            if not len(indices):
                raise DataError(f"task '{id}' ({title}): no example of its classes in split '{split}'")
        self._new_label = torch.full((int(order.max()) + 1,), -1)
        self._new_label[order] = torch.arange(len(order))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return len(self._indices[split])

    def labels(self, split: str) -> Tensor:
        """Labels (N,) of a split, renumbered, in the order of `evaluate`."""
        return self._new_label[self._examples.labels[split][self._indices[split]]]

    def training_size(self) -> int:
        return self.size("train")

    def make_head(self, shape: Shape) -> nn.Module:
        return ClassHead(shape, self._classes)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        for step, indices in enumerate(shuffled(self.size("train"), order, self.id), order.first_step):
            if self._augment is None:
                yield self._batch("train", indices)
            else:
                generator = torch.Generator().manual_seed(derive_seed(order.seed, "augment", self.id, step))
                yield self._batch("train", indices, generator)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(output.float(), batch.targets, reduction="none")

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Accuracy in [0, 1] and mean cross-entropy in nats."""
        correct, loss = 0, 0.0
        indices = torch.arange(self.size(split))
        for first in range(0, len(indices), EVALUATION_BATCH):
            batch = self._batch(split, indices[first : first + EVALUATION_BATCH])
            output = predict(batch.inputs).cpu()
            correct += int((output.argmax(1) == batch.targets).sum())
            loss += float(self.loss(output, batch).sum())
        return {"accuracy": correct / self.size(split), "loss": loss / self.size(split)}

    def _batch(self, split: str, indices: Tensor, generator: torch.Generator | None = None) -> Batch:
        rows = self._indices[split][indices]
        stored = self._examples.inputs[split][rows]
        if generator is not None and self._augment is not None:
            stored = self._augment(stored, generator)
        ids = rows + self._examples.first_id(split)
        targets = self._new_label[self._examples.labels[split][rows]]
        return Batch(ids, Inputs({self.input: self._transform(stored)}, None if generator else ids), targets)
