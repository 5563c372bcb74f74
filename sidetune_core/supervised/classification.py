"""Classification tasks on tensors in memory: the shortest way to write an env."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import DataError
from sidetune_core.hashing import fingerprint, tensor_digest
from sidetune_core.supervised import sampling as sampling_rules
from sidetune_core.supervised.objectives import Classification
from sidetune_core.supervised.sampling import ClassWeights, Sampling
from sidetune_core.supervised.sources import LoadedExamples, Request, Source
from sidetune_core.supervised.task import SupervisedTask

Transform = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


@attrs.frozen(eq=False)
class Examples:
    """All examples of a stream, by split.

    `inputs[split]` is (N, ...) of any dtype, `labels[split]` (N,) int64. Example ids count through the splits
    in order. Inputs that are mapped from a file may have any strides: they are copied where they are read.
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    check: Callable[[], None] | None = None
    """Raises a `DataError` if the file that the inputs are mapped from has changed."""

    def first_id(self, split: str) -> int:
        """The id of the first example of `split`."""
        names = list(self.inputs)
        return sum(len(self.labels[name]) for name in names[: names.index(split)])

    def fingerprint(self, transform: str) -> str:
        """SHA-256 of all examples and of `transform`, the name of their preprocessing."""
        tensors = {f"inputs.{name}": value for name, value in self.inputs.items()}
        tensors |= {f"labels.{name}": value for name, value in self.labels.items()}
        value = hashlib.sha256(f"{transform}/{fingerprint(tensors)}".encode()).hexdigest()
        self.checked()
        return value

    def checked(self) -> None:
        """Check that the file of the inputs, if there is one, has not changed."""
        if self.check is not None:
            self.check()


class ClassTask(SupervisedTask):
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
        class_weights: of the classes in the training loss (see `sampling.class_weights`).
        sampling: see `SupervisedTask`.

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
        class_weights: ClassWeights = "none",
        sampling: Sampling = "uniform",
    ) -> None:
        self.input = input
        sources = {
            split: TensorSource(
                examples, split, classes, input, transform, augment if split == "train" else None
            )
            for split in examples.inputs
        }
        for split, source in sources.items():
            if not len(source):
                raise DataError(f"task '{id}' ({title}): no example of its classes in split '{split}'")
        cls = type(self)
        outputs = attrs.evolve(cls.outputs, size=len(classes), names=class_names)
        weights = sampling_rules.class_weights(sources["train"].targets(), len(classes), class_weights)
        objective = Classification(outputs, weights, cls.metric, cls.higher_is_better)
        super().__init__(id, title, sources, objective, sampling=sampling)

    @property
    def classes(self) -> int:
        """Number of classes."""
        size = self.outputs.size
        assert size is not None
        return size

    def labels(self, split: str) -> Tensor:
        """Labels (N,) of a split, renumbered, in the order of `evaluate`."""
        return self.sources[split].targets()


class TensorSource(Source):
    """The examples of some classes of a split, in memory.

    Args:
        examples: all examples of the stream.
        split: the split.
        classes: see `ClassTask`.
        input: see `ClassTask`.
        transform: see `ClassTask`.
        augment: see `ClassTask`; None for no augmentation.
    """

    def __init__(
        self,
        examples: Examples,
        split: str,
        classes: Sequence[int],
        input: str,
        transform: Transform,
        augment: Augment | None,
    ) -> None:
        stored, labels = examples.inputs[split], examples.labels[split]
        order = torch.tensor(list(classes))
        self.shapes = {input: tuple(transform(stored[:1]).shape[1:])}
        self.augments = augment is not None
        self._examples = examples
        self._stored, self._first_id, self._input = stored, examples.first_id(split), input
        self._transform, self._augment = transform, augment
        self._indices = torch.isin(labels, order).nonzero()[:, 0]
        new_label = torch.full((int(order.max()) + 1,), -1)
        new_label[order] = torch.arange(len(order))
        self._targets = new_label[labels[self._indices]]

    def __len__(self) -> int:
        return len(self._indices)

    def ids(self, rows: Tensor) -> Tensor:
        return self._indices[rows] + self._first_id

    def targets(self) -> Tensor:
        return self._targets

    def digest(self, rows: Tensor) -> str:
        return tensor_digest(self._input, self._read(rows)).hex()

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            stored = self._read(request.rows)
            if request.seed is not None and self._augment is not None:
                stored = self._augment(stored, torch.Generator().manual_seed(request.seed))
            inputs = {self._input: self._transform(stored)}
            yield LoadedExamples(request, inputs, self._targets[request.rows])

    def _read(self, rows: Tensor) -> Tensor:
        self._examples.checked()  # before, since reading behind the end of a file would end the process
        stored = self._stored.index_select(0, self._indices[rows]).contiguous()
        self._examples.checked()
        return stored
