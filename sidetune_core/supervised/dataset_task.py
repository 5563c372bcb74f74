"""Tasks made of torch Datasets, as `Task.from_dataset` makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from sidetune_core.errors import OptionError
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.tasks import Batch, DataPart, Order, Predict
from sidetune_core.supervised.dataset import DatasetSource
from sidetune_core.supervised.iterable_dataset import IterableSource
from sidetune_core.supervised.objectives import Objective
from sidetune_core.supervised.sampling import Sampling
from sidetune_core.supervised.sources import Source
from sidetune_core.supervised.task import EVALUATION_BATCH, SupervisedTask

FINGERPRINTED = 16
"""Examples of each split whose inputs are part of the fingerprint."""

STREAM_IDS = 2**40
"""Ids of a stream's examples begin at multiples of this, since a stream may have no length."""

UNIT, ANY = "unit", "any"
"""Whether images are in [0, 1], in a card."""


class DatasetTask(SupervisedTask):
    """A task on torch Datasets.

    Args:
        id: empty until an env gives it one.
        title: see `Task`.
        sources: see `SupervisedTask`.
        objective: see `SupervisedTask`.
        sampling: see `SupervisedTask`.
        data: the user's name for this version of the data; empty to fingerprint it.
        values: what the env's handler needs (see `HasCard`).
        notes: what was found and converted, for the user.
    """

    def __init__(
        self,
        id: str,
        title: str,
        sources: Mapping[str, Source],
        objective: Objective,
        *,
        sampling: Sampling,
        data: str,
        values: Mapping[str, Any],
        notes: Sequence[str],
    ) -> None:
        super().__init__(id, title, sources, objective, sampling=sampling)
        self.data, self._values, self.notes = data, values, tuple(notes)
        self._digest = ""

    def card(self) -> Mapping[str, Any]:
        """What the handler of env 'datasets' reads."""
        return self._values

    def fingerprint(self) -> str:
        """SHA-256 over the targets of all examples, and the inputs of 16 of each split; or over the name of
        the data that the user gave. Other inputs may differ unnoticed."""
        if not self._digest:
            parts = [f"{name} {part.count} {part.digest}" for name, part in self.data_parts().items()]
            self._digest = hashlib.sha256("\n".join([self.data, *parts]).encode()).hexdigest()
        return self._digest

    def data_parts(self) -> Mapping[str, DataPart]:
        """See `TaskStream.data_parts`: ``train/cat`` for each split and class, or ``train``."""
        parts: dict[str, DataPart] = {}
        for split, source in self.sources.items():
            parts |= _parts(split, source, self.outputs.names, self.outputs.kind, self.data)
        return parts

    def steps_per_epoch(self, batch_size: int) -> int:
        source = self.sources["train"]
        if isinstance(source, IterableSource) and source.size is None:
            raise OptionError(
                f"task '{self.id}' ({self.title}): its training dataset is iterable and has no "
                "length, so its "
                "epochs cannot be counted: set train={'steps': 200, 'epochs': None}, or define __len__"
            )
        return super().steps_per_epoch(batch_size)

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        source = self.sources["train"]
        if not isinstance(source, IterableSource):
            yield from super().train(predict, order)
            return
        for examples in source.train(order, self.id):
            yield self._as_batch(examples, "train")

    def batches(self, split: str, examples: int | None = None) -> Iterator[Batch]:
        """See `SupervisedTask.batches`; `examples` of an iterable dataset are its first batches."""
        source = self.sources[split]
        if not isinstance(source, IterableSource):
            yield from super().batches(split, examples)
            return
        size, read = min(EVALUATION_BATCH, examples or EVALUATION_BATCH), 0
        for loaded in source.once(size):
            yield self._as_batch(loaded, split)
            read += size
            if examples is not None and read >= examples:
                return


def _parts(split: str, source: Source, names: Sequence[str], kind: str, data: str) -> dict[str, DataPart]:
    assert isinstance(source, DatasetSource | IterableSource)
    has_no_length = isinstance(source, IterableSource) and source.size is None
    if data:
        count = 0 if has_no_length else len(source)
        return {split: DataPart(count, hashlib.sha256(data.encode()).hexdigest())}
    inputs = {row: _digest(values) for row, values in source.sample(FINGERPRINTED)}
    if isinstance(source, IterableSource):  # without a length, the examples that were read are counted
        count = len(inputs) if has_no_length else len(source)
        return {split: DataPart(count, _combined(inputs.values()))}
    targets = source.targets()
    if kind != "logits":
        return {split: DataPart(len(source), _combined([_digest({"targets": targets}), *inputs.values()]))}
    parts = {}
    for number, name in enumerate(names):
        rows = (targets == number).nonzero()[:, 0]
        own = [inputs[row] for row in rows.tolist() if row in inputs]
        if len(rows):
            parts[f"{split}/{name}"] = DataPart(len(rows), _combined([_digest({"rows": rows}), *own]))
    return parts


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return _combined(tensor_digest(name, tensors[name]).hex() for name in sorted(tensors))


def _combined(digests: Any) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
