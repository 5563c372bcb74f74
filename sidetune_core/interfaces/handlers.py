"""Handlers: how raw inputs become batches, and outputs become predictions, for a task without its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import Inputs, Shape


@attrs.frozen(eq=False)
class Preprocessed:
    """Raw examples that were given together, as inputs of a network."""

    inputs: Inputs
    """(B, *shape) by name."""
    count: int
    """Number of raw examples; B may be larger, as with the windows of a long text."""
    context: Any = None
    """What the handler's `postprocess` needs of the raw examples."""


class Prediction(Protocol):
    """What a task predicts for one example."""

    def to_json(self) -> dict[str, Any]:
        """The prediction in plain values."""

    def __str__(self) -> str:
        """The prediction in one line."""


class TaskHandler(ABC):
    """Uses a task without its data: preprocesses raw inputs as in training, and gives outputs their meaning.

    An env offers one by `HasHandler`. It keeps nothing between calls, so threads may share it.

    Args:
        card: of the task.

    Raises:
        ValueError: the card's values are not those of this env.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of the files that `read_file` reads, where a folder is searched for them, in lower case; empty for
    all files."""

    def __init__(self, card: TaskCard) -> None:
        self.card = card

    def make_head(self, shape: Shape) -> nn.Module:
        """The task's head on encodings (B, *shape), as `Task.make_head` makes it.

        Raises:
            FitError: only the env can make it, from its data.
        """
        return make_head(self.card, shape)

    def is_batch(self, value: object) -> bool:
        """Whether raw inputs are several examples, by default a list or tuple; otherwise they are one."""
        return isinstance(value, list | tuple)

    @abstractmethod
    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        """Raw examples as the network's inputs, as in training and without augmentation.

        Raises:
            InputError: one has another shape, range, type or name than the task's inputs; the message says
                what is expected.
        """

    @abstractmethod
    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """Predictions for each of ``examples.count`` raw examples from an output (B, ...) in float32."""

    def read_file(self, path: Path) -> Iterator[tuple[str, Any]]:
        """The raw inputs in a file, each with a name. By default the file is the raw input.

        Raises:
            InputError: it cannot be read, which may be found only by `preprocess`.
        """
        yield str(path), path

    def document(self, predictions: Mapping[str, Prediction]) -> str:
        """The predictions by name in a file format of the task's field; empty if there is none."""
        return ""

    def transform(self) -> nn.Module:
        """The preprocessing of tensors, for a network that is used without this handler: a module from what
        a decoder gives, such as images of bytes, to the network's input. By default nothing."""
        return nn.Identity()

    def set_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most tasks have no state
        """Restore the task's own state, such as running means of observations (see `HasState`)."""


def make_head(card: TaskCard, shape: Shape) -> nn.Module:
    """The head of a task on encodings (B, *shape), if its card alone tells what that is.

    Raises:
        FitError: only the env can make it.
    """
    if card.head == "linear" and card.outputs.size is not None:
        return ClassHead(shape, card.outputs.size)
    raise FitError(f"the head of task '{card.id}' is made by env '{card.env}' from its data")


@runtime_checkable
class HasCard(Protocol):
    """A task that its env's handler can use without data."""

    def card(self) -> Mapping[str, Any]:
        """Plain values for `TaskCard.values`: what `TaskHandler` needs and no other field of the card has."""


@runtime_checkable
class HasHandler(Protocol):
    """An env whose tasks can be used without data; a class method, since no env is made for this."""

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        """The handler of a task.

        Raises:
            ValueError: the card's values are not those of this env.
        """
