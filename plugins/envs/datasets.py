"""Tasks that Python gives, such as those of `Task.from_dataset`."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    DataError,
    DataPart,
    InputError,
    Inputs,
    OptionError,
    Prediction,
    Preprocessed,
    Shape,
    Task,
    TaskCard,
    TaskHandler,
    TaskStream,
    ValuesPrediction,
    class_predictions,
    label_predictions,
)

from ._image_inputs import ImageHandler, ToUnit

IMAGE = "image"


@runtime_checkable
class HasFingerprint(Protocol):
    """A task that tells its data apart, as those of `Task.from_dataset` do."""

    notes: tuple[str, ...]
    data: str

    def fingerprint(self) -> str: ...

    def data_parts(self) -> Mapping[str, DataPart]: ...


class Datasets(TaskStream):
    """The tasks of ``sidetune_core.run(tasks=[...])``, which Python gives: no command can choose this env.

    Tasks without an id are called ``t0``, ``t1``, … by their position.

    Args:
        config: options: none.
        seed: of the run; not used.
        tasks: the tasks.

    Raises:
        OptionError: there are no tasks.
        DataError: they have different inputs.
    """

    @attrs.frozen
    class Config:
        """Options of the env: none."""

    def __init__(self, config: Config, seed: int, tasks: Sequence[Task] | None = None) -> None:
        if not tasks:
            raise OptionError(
                "env 'datasets' has the tasks that Python gives: sidetune_core.run(tasks=["
                "Task.from_dataset(train=..., test=...)], ...), and again where a run needs their data: "
                "resume(RUN, tasks=[...]) with those that extend() has added, evaluate(RUN, env=[...]), "
                "extend(RUN, tasks=[...], earlier_tasks=[...])"
            )
        self._given = tuple(tasks)
        _check_ids(self._given)
        self.inputs = {name: tuple(shape) for name, shape in tasks[0].inputs.items()}
        _check_inputs(self._given, self.inputs)

    @classmethod
    def from_object(cls, given: Any, config: Config, *arguments: Any) -> Datasets:
        """See `MadeFromObject`."""
        (seed,) = arguments
        return cls(config, seed, given)

    def tasks(self) -> Sequence[Task]:
        tasks = []
        for number, task in enumerate(self._given):
            own = copy.copy(task)  # the user may give the same task to another run, under another id
            own.id = task.id or f"t{number}"
            tasks.append(own)
        notes = [note for task in tasks if isinstance(task, HasFingerprint) for note in task.notes]
        for note in dict.fromkeys(notes):
            self.info(note)
        return tasks

    def fingerprint(self) -> str:
        """Empty, unless the user names the versions of all data sets: other examples than those that
        `data_fingerprint` reads may differ, and features of an earlier run would be those of other inputs."""
        named = all(isinstance(task, HasFingerprint) and task.data for task in self._given)
        return self.data_fingerprint() if named else ""

    def data_fingerprint(self) -> str:
        if not all(isinstance(task, HasFingerprint) for task in self._given):
            return ""
        prints = [task.fingerprint() for task in self._given if isinstance(task, HasFingerprint)]
        return hashlib.sha256("\n".join(prints).encode()).hexdigest()

    def data_parts(self) -> Mapping[str, DataPart]:
        return {
            f"{task.id or f't{number}'}/{name}": part
            for number, task in enumerate(self._given)
            if isinstance(task, HasFingerprint)
            for name, part in task.data_parts().items()
        }

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        if "resize" in card.values:
            return ResizedImageHandler(card)
        return ArrayHandler(card)


def _check_ids(tasks: Sequence[Task]) -> None:
    places: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        places.setdefault(task.id or f"t{number}", []).append(number)
    if same := [f"{id!r} (tasks {', '.join(map(str, own))})" for id, own in places.items() if len(own) > 1]:
        more = f" and {len(same) - 3} more" if len(same) > 3 else ""
        raise OptionError(
            f"several tasks have the id {', '.join(same[:3])}{more}; tasks without an id are t0, t1, … "
            "by their position: give each its own, Task.from_dataset(..., id='NAME')"
        )


def _check_inputs(tasks: Sequence[Task], inputs: Mapping[str, Shape]) -> None:
    other = [
        f"task {number} ({task.title}) has {dict(task.inputs)}"
        for number, task in enumerate(tasks)
        if {name: tuple(shape) for name, shape in task.inputs.items()} != inputs
    ]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise DataError(
            f"the tasks have different inputs: task 0 ({tasks[0].title}) has {dict(inputs)}, "
            f"{', '.join(other[:3])}{more}; one network takes them all, so make their shapes equal"
        )


class ResizedImageHandler(ImageHandler):
    """Takes images of any size: files, Pillow images, arrays and tensors."""

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        return _predictions(output, self.card)


class ArrayHandler(TaskHandler):
    """Takes arrays and tensors as the training dataset returned them after its transforms, by name, or alone
    if there is one input; with a further axis at their front they are several examples.
    """

    def is_batch(self, value: object) -> bool:
        name, shape = next(iter(self.card.inputs.items()))
        if isinstance(value, Mapping):
            return name in value and np.ndim(value[name]) == len(shape) + 1
        if isinstance(value, np.ndarray | Tensor):
            return len(self.card.inputs) == 1 and value.ndim == len(shape) + 1
        return super().is_batch(value)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        examples = [self._by_name(value) for value in values]
        tensors = {
            name: torch.stack([self._as_input(example[name], name, shape) for example in examples])
            for name, shape in self.card.inputs.items()
        }
        return Preprocessed(Inputs(tensors), len(examples))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        return _predictions(output, self.card)

    def transform(self) -> nn.Module:
        return ToUnit() if self._takes_bytes else nn.Identity()

    @property
    def _takes_bytes(self) -> bool:
        return self.card.values.get("images") == "unit" and [*self.card.inputs] == [IMAGE]

    def _by_name(self, value: object) -> Mapping[str, Any]:
        expected = ", ".join(f"'{name}' {tuple(shape)}" for name, shape in self.card.inputs.items())
        if not isinstance(value, Mapping):
            if len(self.card.inputs) == 1:
                return dict.fromkeys(self.card.inputs, value)
            raise InputError(f"task '{self.card.id}' has several inputs: give them by name: {expected}")
        if value.keys() != self.card.inputs.keys():
            given = ", ".join(map(repr, value)) or "none"
            raise InputError(f"task '{self.card.id}' has the inputs {expected}; got {given}")
        return value

    def _as_input(self, value: object, name: str, shape: Shape) -> Tensor:
        """float32, or int64 for integers.

        Raises:
            InputError: it is no array of finite numbers of this shape.
        """
        as_in_training = "as the training dataset returns it, after its transforms"
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        if not isinstance(value, Tensor) or value.is_complex():
            raise InputError(
                f"input '{name}' is a {type(value).__name__}: give an array or tensor {tuple(shape)}, "
                f"{as_in_training} (a task takes images and files if it was made with image_size=)"
            )
        if tuple(value.shape) != tuple(shape):
            raise InputError(
                f"input '{name}' has shape {tuple(value.shape)}, expected {tuple(shape)}, {as_in_training}"
            )
        value = value.detach().cpu()
        if value.dtype == torch.uint8 and value.ndim == 3:
            return value.float() / 255
        if not value.is_floating_point():
            return value.float() if value.dtype == torch.bool else value.long()
        if not value.isfinite().all():
            raise InputError(f"input '{name}' has values that are NaN or infinite")
        if self._takes_bytes and not 0 <= float(value.min()) <= float(value.max()) <= 1:
            raise InputError(
                f"input '{name}' has values from {float(value.min()):.4g} to "
                f"{float(value.max()):.4g}, and those "
                "of the training examples are in [0, 1]: divide by 255, or give uint8"
            )
        return value.float()


def _predictions(output: Tensor, card: TaskCard) -> Sequence[Prediction]:
    """Predictions from an output (B, K)."""
    outputs = card.outputs
    if outputs.kind == "logits":
        return class_predictions(output, outputs.names)
    if outputs.kind == "binary":
        return label_predictions(output, outputs.names)
    names = outputs.names or tuple(map(str, range(output.shape[1])))
    return [ValuesPrediction(dict(zip(names, row, strict=True))) for row in output.float().tolist()]
