"""The kit's own components and tasks: very small, with batch norm and taps to expose mistakes with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Final

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.interfaces.continuation import Block, Continuation, select_blocks
from sidetune_core.interfaces.inputs import Features, Inputs, InputShapes, Shape
from sidetune_core.interfaces.networks import Base, Merger, StagedSide
from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.classification import ClassTask, Examples
from sidetune_core.supervised.multi_label import MultiLabel
from sidetune_core.supervised.objectives import Objective
from sidetune_core.supervised.regression import Regression
from sidetune_core.supervised.sources import LoadedExamples, Request, Source
from sidetune_core.supervised.task import SupervisedTask

INPUTS: Final[InputShapes] = {"image": (3, 32, 32)}
TEXT: Final[InputShapes] = {"tokens": (12,), "mask": (12,), "types": (12,)}
TOKENS = 32
CLASSES = 4


@attrs.frozen
class Config:
    """The kit's components have no options."""


class TinyBase(Base):
    """Two convolutions and a linear layer, from ``image`` (B, C, H, W) to an encoding of any shape.

    H and W are multiples of 8. For images of 32 x 32 its taps are (8, 8, 8) and (16, 4, 4).
    """

    Config = Config

    def __init__(self, shape: Shape, inputs: InputShapes = INPUTS) -> None:
        super().__init__()
        channels, height, width = inputs["image"]
        self.shape = shape
        self.tap_shapes = ((8, height // 4, width // 4), (16, height // 8, width // 8))
        self.first = nn.Conv2d(channels, 8, 3, stride=4, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(prod(self.tap_shapes[1]), prod(shape))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        first = functional.relu(self.first(inputs["image"]))
        second = functional.relu(self.norm(self.second(first)))
        return Features(self.last(second.flatten(1)).unflatten(1, self.shape), (first, second))

    def blocks(self) -> Sequence[Block]:
        return tuple(
            Block(name, number - 1, False) for number, name in enumerate(("first", "second", "last"))
        )

    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        select_blocks(self.blocks(), len(self.tap_shapes), tap, keep)
        return _RestOfBase(self, tap).train(self.training).requires_grad_(True)


class _RestOfBase(Continuation):
    """What `TinyBase` computes after a tap."""

    def __init__(self, base: TinyBase, tap: int) -> None:
        super().__init__()
        self.shape = base.shape
        if tap == 0:
            self.second, self.norm = copy.deepcopy((base.second, base.norm))
        self.last = copy.deepcopy(base.last)

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if hasattr(self, "second"):
            tap = functional.relu(self.norm(self.second(tap)))
        encoding: Tensor = self.last(tap.flatten(1)).unflatten(1, self.shape)
        return encoding


class TinyReader(Base):
    """Two layers over `TEXT`, each linear plus the mean over tokens; encoding and taps are (12, 8)."""

    Config = Config

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.vocabulary_size = (*TEXT["tokens"], 8), TOKENS
        self.tap_shapes = (self.shape, self.shape)
        self.embeddings = nn.Embedding(TOKENS, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        mask = inputs["mask"].float()[..., None]
        hidden = [self.embeddings(inputs["tokens"].long()) * mask]
        for layer in self.layers:
            hidden.append(_mixed(layer, hidden[-1], mask))
        return Features(hidden[-1], tuple(hidden[: len(self.tap_shapes)]))

    def first_layers(self, layers: int) -> TinyReader:
        truncated = copy.deepcopy(self)
        truncated.layers, truncated.tap_shapes = truncated.layers[:layers], ()
        return truncated

    def blocks(self) -> Sequence[Block]:
        return tuple(Block(f"layers.{number}", number, True) for number in range(len(self.layers)))

    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        kept = select_blocks(self.blocks(), len(self.tap_shapes), tap, keep)
        layers = {str(number): self.layers[number] for number in sorted(kept)}
        return _RestOfReader(copy.deepcopy(layers)).train(self.training).requires_grad_(True)


class _RestOfReader(Continuation):
    """Layers of a `TinyReader`."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        for layer in self.layers.values():
            tap = _mixed(layer, tap, inputs["mask"].float()[..., None])
        return tap


def _mixed(layer: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """A layer plus the mean over tokens, (B, L, C); zero where the mask (B, L, 1) is."""
    mean = hidden.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    mixed: Tensor = (layer(hidden) + mean).tanh() * mask
    return mixed


class TinySide(StagedSide):
    """Two convolutions with batch norm and a linear layer. For 32 x 32 stages are (4, 8, 8), (6, 4, 4)."""

    Config = Config

    def __init__(self, shape: Shape, inputs: InputShapes = INPUTS) -> None:
        super().__init__()
        channels, height, width = inputs["image"]
        self.shape = shape
        self.stage_shapes = ((4, height // 4, width // 4), (6, height // 8, width // 8))
        self.first = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Linear(prod(self.stage_shapes[1]), prod(shape))

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["image"]

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [(layer[:-1], layer[-1]) for layer in (self.first, self.second)]

    def project(self, activation: Tensor) -> Tensor:
        encoding: Tensor = self.last(activation.flatten(1)).unflatten(1, self.shape)
        return encoding


class TinyMerger(Merger):
    """A learned weight for each encoding."""

    Config = Config

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((count,), 1 / count))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        return torch.stack(
            [weight * encoding for weight, encoding in zip(self.weight, encodings, strict=True)]
        ).sum(0)


def values(ids: Sequence[int], shape: Shape, *names: object) -> Tensor:
    """Examples (B, *shape) in [0, 1), each a function of its id and of `names` only."""
    seeds = [derive_seed(example_id, *names) for example_id in ids]
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def images(ids: Sequence[int], shapes: InputShapes = INPUTS) -> Inputs:
    """A batch of images, without ids, so that the core does not cache the base's outputs."""
    return Inputs({name: values(ids, shape, name) for name, shape in shapes.items()})


def texts(ids: Sequence[int]) -> Inputs:
    """A batch of `TEXT`, of 12 tokens for ids divisible by 3, and of 9 or 7 otherwise."""
    lengths = torch.tensor([(12, 7, 9)[example_id % 3] for example_id in ids])
    width = int(lengths.max())
    rows = torch.stack([values([example_id], (12,), "tokens")[0] for example_id in ids])[:, :width]
    mask = torch.arange(width) < lengths[:, None]
    tokens = (1 + rows * (TOKENS - 1)).long() * mask
    return Inputs(
        {"tokens": tokens, "mask": mask.long(), "types": mask * (torch.arange(width) > 3)}, lengths=lengths
    )


class Images(Source):
    """A split of `examples`, whose targets are computed from the images (B, C, H, W)."""

    shapes = INPUTS

    def __init__(self, examples: Examples, split: str, target: Callable[[Tensor], Tensor]) -> None:
        self._images, self._first_id = examples.inputs[split], examples.first_id(split)
        self._targets = target(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            yield LoadedExamples(request, {"image": self._images[request.rows]}, self._targets[request.rows])


def mean_colours(images: Tensor) -> Tensor:
    """(B, 3), the mean of each colour."""
    return images.mean((2, 3))


def bright_colours(images: Tensor) -> Tensor:
    """(B, 3), 1 where the mean of a colour is above that of all images."""
    means = mean_colours(images)
    return (means > means.mean()).float()


def examples(classes: int) -> Examples:
    """12 training and 4 test images of each class."""
    labels = {split: torch.arange(classes).repeat(count) for split, count in (("train", 12), ("test", 4))}
    noise = {split: values(range(len(label)), INPUTS["image"], split) for split, label in labels.items()}
    pixels = {split: noise[split] + label.view(-1, 1, 1, 1) / classes for split, label in labels.items()}
    return Examples(pixels, labels)


def regression_tasks() -> list[SupervisedTask]:
    """Two tasks that predict the mean of each colour of an image."""
    return _tasks(Regression(3, metric="loss"), mean_colours)


def label_tasks() -> list[SupervisedTask]:
    """Two tasks of three labels: which colours of an image are bright."""
    return _tasks(MultiLabel(3, metric="loss", higher_is_better=False), bright_colours)


def _tasks(objective: Objective, target: Callable[[Tensor], Tensor]) -> list[SupervisedTask]:
    images = examples(CLASSES)
    sources = {split: Images(images, split, target) for split in images.inputs}
    return [SupervisedTask(f"t{k}", f"t{k}", sources, objective) for k in range(2)]


def tasks_of_classes() -> list[ClassTask]:
    """A task of three classes and one of five."""
    images = examples(8)
    ranges = (range(3), range(3, 8))
    return [
        ClassTask(f"t{k}", f"task {k}", images, [*classes], transform=torch.clone)
        for k, classes in enumerate(ranges)
    ]


def tasks() -> list[ClassTask]:
    """Two tasks of two classes, with 12 training and 4 test images of each class."""
    images = examples(CLASSES)
    return [
        ClassTask(f"t{k}", f"task {k}", images, (2 * k, 2 * k + 1), transform=torch.clone) for k in range(2)
    ]
