"""Base class of the envs that make several tasks of one env of images: in each task, its images are
transformed in another way."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    FitsImages,
    HasCard,
    HasHandler,
    ImageInput,
    Inputs,
    LoadedExamples,
    NestedEnv,
    OptionError,
    Prediction,
    Preprocessed,
    Renamed,
    Request,
    Source,
    SupervisedTask,
    TaskCard,
    TaskHandler,
    TaskStream,
    option,
)

from ..classification.stream import ImageStream
from .transforms import ImageTransform, TransformModule, read_transform

IMAGE = "image"


@attrs.frozen
class TransformOptions:
    """Options of the envs that transform another one."""

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "options": Renamed("options", separator="")  # a comma is part of a value
    }

    of: str = option(
        "digits",
        "env of the images, with all of its classes in one task",
        imports=lambda name: [name] if ":" in name else [],
    )
    options: tuple[str, ...] = option(
        (), "options of that env, each as NAME=VALUE, such as 'dataset=MNIST image-size=28'"
    )


C = TypeVar("C", bound=TransformOptions)


class TransformedStream(TaskStream):
    """Base class: each task has the images of another env, transformed in a way of its own, and the same
    classes.

    Args:
        config: options.
        seed: of the run.

    Raises:
        OptionError: the other env has inputs other than images.
    """

    def __init__(self, config: TransformOptions, seed: int) -> None:
        self._of = NestedEnv.of(config.of, config.options)
        self._stream: TaskStream = self._of.cls(self._of.config, seed)
        self.inputs = self._stream.inputs
        if [*self.inputs] != [IMAGE] or len(self.inputs[IMAGE]) != 3:
            raise OptionError(
                f"--env.of {config.of}: its inputs are {dict(self.inputs)}, and images are expected, as "
                "those of digits, icifar or torchvision"
            )
        if isinstance(self._stream, ImageStream):
            self._stream.divides = False
        self._seed, self._print, self._data_print, self._content = seed, "", "", ""

    @abstractmethod
    def transforms(self) -> Sequence[tuple[str, ImageTransform]]:
        """A title and a transformation for each task."""

    @classmethod
    def fit_images(cls, config: C, images: ImageInput | None) -> C:
        """The options with those of the other env that it leaves to the base (see `FitsImages`)."""
        of = NestedEnv.of(config.of, config.options)
        if not issubclass(of.cls, FitsImages):
            return config
        fitted = attrs.evolve(of, config=of.cls.fit_images(of.config, images))
        return attrs.evolve(config, options=fitted.settings)

    def tasks(self) -> Sequence[SupervisedTask]:
        """A task for each transformation."""
        self._stream.info, self._stream.trust_local_code = self.info, self.trust_local_code
        given = self._stream.tasks()
        task = given[0]
        if len(given) != 1 or not isinstance(task, SupervisedTask):
            raise OptionError(
                f"--env.of {self._of.name} has {len(given)} tasks here, and one task of labelled images is "
                "expected; leave out options that divide its classes, such as classes-per-task and tasks"
            )
        if type(task).make_head is not SupervisedTask.make_head:
            raise OptionError(f"--env.of {self._of.name}: its tasks make heads of their own")
        transforms = self.transforms()
        described = json.dumps([transform.to_json() for _, transform in transforms])
        self._print = _joined(self._stream.fingerprint(), described)
        self._data_print = _joined(self._stream.data_fingerprint(), described)
        self._content = _joined(self._stream.content_fingerprint(), self.recipe_of_transforms())
        return [
            TransformedTask(f"t{index}", title, task, transform, self._of.name)
            for index, (title, transform) in enumerate(transforms)
        ]

    @abstractmethod
    def recipe_of_transforms(self) -> str:
        """What the transformations are, apart from the run's seed."""

    def fingerprint(self) -> str:
        return self._print

    def data_fingerprint(self) -> str:
        return self._data_print

    def content_fingerprint(self) -> str:
        return self._content

    @classmethod
    def handler(cls, card: TaskCard) -> TransformedHandler:
        return TransformedHandler(card)

    def close(self) -> None:
        self._stream.close()


def _joined(fingerprint: str, transforms: str) -> str:
    """Empty where the data are unknown."""
    return hashlib.sha256(f"{fingerprint} {transforms}".encode()).hexdigest() if fingerprint else ""


class TransformedSource(Source):
    """The examples of another source, with transformed images."""

    def __init__(self, source: Source, transform: ImageTransform) -> None:
        self.shapes, self.augments = source.shapes, source.augments
        self.lazy_targets = source.lazy_targets
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def ids(self, rows: Tensor) -> Tensor:
        return self._source.ids(rows)

    def targets(self) -> Tensor:
        return self._source.targets()

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for examples in self._source.read(requests):
            images = self._transform(examples.inputs[IMAGE])
            yield attrs.evolve(examples, inputs={**examples.inputs, IMAGE: images})

    def digest(self, rows: Tensor) -> str:
        return _joined(self._source.digest(rows), json.dumps(self._transform.to_json()))

    def close(self) -> None:
        self._source.close()


class TransformedTask(SupervisedTask):
    """A task of another env with transformed images.

    Args:
        id: see `Task`.
        title: see `Task`.
        task: of the other env.
        transform: of its images, after augmentation.
        of: the name of the other env.
    """

    def __init__(self, id: str, title: str, task: SupervisedTask, transform: ImageTransform, of: str) -> None:
        sources = {split: TransformedSource(source, transform) for split, source in task.sources.items()}
        super().__init__(id, title, sources, task.objective, sampling=task.sampling)
        self._task, self._transform, self._of = task, transform, of

    def card(self) -> Mapping[str, Any]:
        values = dict(self._task.card()) if isinstance(self._task, HasCard) else {}
        return {"of": self._of, "values": values, "transform": self._transform.to_json()}


class TransformedHandler(TaskHandler):
    """Preprocesses images as the other env does, then transforms them.

    Raises:
        ValueError: the card has other values.
    """

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        self._transform = read_transform(card.values.get("transform"))
        of, values = card.values.get("of"), card.values.get("values")
        if not isinstance(of, str) or not isinstance(values, Mapping):
            raise ValueError(f"its value 'of' is {of!r}")
        cls = NestedEnv.of(of, file=f"the card of task {card.id}").cls
        if not issubclass(cls, HasHandler):
            raise ValueError(f"env '{of}' has no handler")
        self._handler = cls.handler(attrs.evolve(card, env=of, values=values))
        self.suffixes = self._handler.suffixes  # type: ignore[misc]

    def is_batch(self, value: object) -> bool:
        return self._handler.is_batch(value)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        examples = self._handler.preprocess(values)
        images = self._transform(examples.inputs[IMAGE])
        return attrs.evolve(examples, inputs=Inputs({**examples.inputs, IMAGE: images}))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        return self._handler.postprocess(output, examples)

    def transform(self) -> nn.Module:
        return nn.Sequential(self._handler.transform(), TransformModule(self._transform))

    def read_file(self, path: Path) -> Iterator[tuple[str, Any]]:
        return self._handler.read_file(path)
