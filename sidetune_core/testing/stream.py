"""An env under examination, and what the kit has seen of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED

SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4), (5, 8))
"""Shapes of encodings on which a head is tried, in this order."""
BATCH = 16
STEPS = 8
"""Training batches of a task that most checks read."""
ID_STEPS = 100
"""Largest number of training batches of a task of which the kit notes ids and digests of inputs."""


@attrs.define(eq=False)
class Rows:
    """What the kit notes of examples, one entry each, in the order in which they were read."""

    ids: list[int] = attrs.field(factory=list)
    """`Batch.ids` in training, `Inputs.ids` in evaluation, where there are any."""
    input_ids: list[int | None] = attrs.field(factory=list)
    """`Inputs.ids`."""
    digests: list[bytes] = attrs.field(factory=list)
    """Of the inputs."""
    labels: list[int] = attrs.field(factory=list)
    """Targets (B,) of whole numbers; empty for others."""
    sizes: list[int] = attrs.field(factory=list)
    """Sizes of the batches."""
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    """What `evaluate` returned."""

    def add(self, inputs: Inputs, batch: Batch | None = None) -> None:
        """Note a batch: of inputs only in evaluation."""
        digests = [_digest(row) for row in rows(inputs)]
        self.sizes.append(len(digests))
        self.digests += digests
        input_ids = [None] * len(digests) if inputs.ids is None else inputs.ids.tolist()
        self.input_ids += input_ids
        self.ids += [one for one in input_ids if one is not None] if batch is None else batch.ids.tolist()
        if batch is not None and batch.targets.ndim == 1 and not batch.targets.is_floating_point():
            self.labels += batch.targets.tolist()

    def by_id(self) -> Iterator[tuple[int, bytes]]:
        """The digest of the inputs of every example that has `Inputs.ids`."""
        for example_id, digest in zip(self.input_ids, self.digests, strict=True):
            if example_id is not None:
                yield example_id, digest


@attrs.define(eq=False)
class Stream:
    """An env whose data has been read."""

    env: TaskStream
    tasks: Sequence[Task]
    again: Callable[[], Stream]
    """Reads the env once more, with the same seed, at the first call."""
    fresh: Callable[[int], Stream]
    """Reads the env once more, with some seed, at every call."""
    variants: Callable[[], Iterator[tuple[str, Callable[[], Stream]]]]
    """The env with one other option each, by name and value of the option."""
    drew: bool
    """Whether reading the data changed the global random states."""
    _trained: dict[tuple[int, int], Rows] = attrs.field(factory=dict, init=False)
    _evaluated: dict[tuple[int, str], Rows] = attrs.field(factory=dict, init=False)

    def trained(self, task: Task, seed: int = SEED, *, more: bool = False) -> Rows:
        """Examples of two epochs of training, at most `ID_STEPS` batches, which `more` reads in any case."""
        key = (id(task), ID_STEPS + seed if more else seed)
        if key not in self._trained:
            noted = self._trained[key] = Rows()
            for batch in batches(
                task, seed, steps=ID_STEPS if more else min(ID_STEPS, 2 * epoch_steps(task))
            ):
                noted.add(batch.inputs, batch)
        return self._trained[key]

    def evaluated(self, task: Task, split: str) -> Rows:
        """Examples that `evaluate` hands over for a split."""
        key = (id(task), split)
        if key not in self._evaluated:
            noted = Rows()
            noted.metrics = task.evaluate(network(task, seen=noted.add), split)
            self._evaluated[key] = noted
        return self._evaluated[key]


def epoch_steps(task: Task) -> int:
    """Batches of an epoch; 1 where `steps_per_epoch` is wrong, which a check reports."""
    try:
        return max(1, int(task.steps_per_epoch(BATCH)))
    except Exception:  # plugins may raise anything
        return 1


def batches(task: Task, seed: int = SEED, first_step: int = 0, steps: int = STEPS) -> Iterator[Batch]:
    """Training batches of a task."""
    return islice(task.train(network(task), Order(seed, BATCH, first_step)), steps)


def acts(task: Task) -> bool:
    """Whether the task collects its training examples with the network's outputs."""
    asked = []
    compute = network(task)

    def predict(inputs: Inputs) -> Tensor:
        asked.append(len(inputs))
        return compute(inputs)

    next(iter(task.train(predict, Order(SEED, BATCH))), None)
    return bool(asked)


def network(
    task: Task,
    *,
    seen: Callable[[Inputs], None] | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
    grad: bool = False,
) -> Predict:
    """The task's head on encodings that are a fixed function of the inputs, sequences as long as those.

    Args:
        task: its head is used.
        seen: is called with all inputs.
        change: of the output.
        grad: whether the output has a gradient.
    """
    head, shape = make_head(task)

    def predict(inputs: Inputs) -> Tensor:
        if seen is not None:
            seen(inputs)
        with torch.set_grad_enabled(grad):
            output: Tensor = head(_encoding(inputs, shape))
            return output if change is None else change(output)

    return predict


def make_head(task: Task) -> tuple[nn.Module, Shape]:
    """A head, and the shape of its encodings."""
    refusals = []
    for shape in shapes(task):
        try:
            with seeded(SEED, "head", task.id):
                return task.make_head(shape).eval(), shape
        except FitError as error:
            refusals.append(error)
    raise refusals[0]


def shapes(task: Task) -> tuple[Shape, ...]:
    """Shapes of encodings for the head of a task."""
    return (*SHAPES, *sorted({(size[0], 8) for size in task.inputs.values() if len(size) == 1}))


def encodings(task: Task, shape: Shape, inputs: Inputs) -> Tensor:
    """The encodings on which the head of a task is tried."""
    return _encoding(inputs, shape)


def _encoding(inputs: Inputs, shape: Shape) -> Tensor:
    """(B, *shape), a function of each example in [-1, 1]; (B, l, C) for sequences."""
    count, *sizes = next(iter(inputs.values())).shape
    if inputs.lengths is not None:
        shape = (sizes[0], *shape[1:])
    flat = [value.detach().cpu().float().reshape(count, -1).nan_to_num() for value in inputs.values()]
    facts = torch.stack(
        [fact for value in flat for fact in (value.mean(1), value.std(1, False), value[:, 0])], 1
    )
    generator = torch.Generator().manual_seed(SEED)
    mixture = torch.randn(facts.shape[1], max(1, torch.Size(shape).numel()), generator=generator)
    return (facts @ mixture).tanh().reshape(count, *shape)


def some(batch: Batch, chosen: slice) -> Batch:
    """Some examples of a batch."""
    inputs = batch.inputs
    return Batch(
        batch.ids[chosen],
        Inputs(
            {name: value[chosen] for name, value in inputs.items()},
            None if inputs.ids is None else inputs.ids[chosen],
            None if inputs.lengths is None else inputs.lengths[chosen],
            inputs.window,
        ),
        batch.targets[chosen],
    )


def rows(inputs: Inputs) -> Iterator[tuple[Tensor, ...]]:
    """The tensors of each example, without padding."""
    values = list(inputs.values())
    for index in range(len(values[0])):
        length = None if inputs.lengths is None else int(inputs.lengths[index])
        yield tuple(value[index][:length] if length is not None else value[index] for value in values)


def agree(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    """Whether two sequences of batches are of one length and equal."""
    return all(equal_batches(batch, same) for batch, same in zip(first, second, strict=True))


def equal_batches(first: Batch, second: Batch) -> bool:
    """Whether ids, inputs and targets are equal; NaN equals itself."""
    pairs = [
        (first.ids, second.ids),
        (first.targets, second.targets),
        *((value, second.inputs[name]) for name, value in first.inputs.items()),
    ]
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def copied(batch: Batch) -> Batch:
    """A batch whose tensors nobody else has."""
    inputs = attrs.evolve(batch.inputs, tensors={name: value.clone() for name, value in batch.inputs.items()})
    return Batch(batch.ids.clone(), inputs, batch.targets.clone())


def _digest(row: tuple[Tensor, ...]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in row:
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
