"""Task cards: what is needed to use a task without its data.

A run writes the card of each task into its folder, and an adapter carries the card of its own. A card has
plain values only; the class that reads them is the handler of a registered env (see `TaskHandler`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.io.files import check_shapes

FORMAT = 1
"""Version of the keys of a card."""

MAX_OUTPUTS = 2**17
"""Of a task whose head is built from its card."""


@attrs.frozen
class TaskCard:
    """The contract of a task's inputs and outputs, and facts about its data."""

    id: str
    title: str
    env: str
    """The env that has the task, as a registered name such as ``sidetune/images``."""
    inputs: InputShapes
    """Shapes of the network's inputs, by name, without the batch axis."""
    outputs: Outputs
    metric: str
    higher_is_better: bool = True
    head: str = "env"
    """Who makes the task's head: ``linear`` for a `ClassHead` of `outputs`, ``handler`` for
    `TaskHandler.make_head`, ``env`` where the env makes it from its data."""
    splits: Mapping[str, int | None] = attrs.field(factory=dict)
    """Number of examples of each split; None where the env does not know it."""
    values: Mapping[str, Any] = attrs.field(factory=dict)
    """What the env's handler reads, such as the size of images (see `HasCard`)."""
    data: str = ""
    """The fingerprint of the env's data; empty if unknown."""

    def __attrs_post_init__(self) -> None:
        """Nothing of an absurd size is allocated to use a task."""
        check_shapes(self.inputs)
        if self.outputs.size is not None and not 0 < self.outputs.size <= MAX_OUTPUTS:
            raise ValueError(f"a task cannot have {self.outputs.size} outputs")
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}, expected {', '.join(HEADS)}")

    def to_json(self) -> dict[str, Any]:
        """The card in plain values."""
        plain = attrs.asdict(self)
        return {"format": FORMAT, **plain, "inputs": {name: [*shape] for name, shape in self.inputs.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TaskCard:
        """A card from what `to_json` returned. Nothing is imported.

        Raises:
            ValueError: a key is missing or has a wrong type, a size is absurd, or the format is a later one.
        """
        if not isinstance(values, Mapping):
            raise ValueError("it is no JSON object")
        if values.get("format") != FORMAT:
            raise ValueError(f"it has format {values.get('format')!r}, and this version reads {FORMAT}")
        given = {field.name: values[field.name] for field in attrs.fields(cls) if field.name in values}
        for name, kind in KINDS.items():
            if not isinstance(given.get(name), kind):
                raise ValueError(f"its {name} is {given.get(name)!r}")
        shapes = {name: tuple(shape) for name, shape in given["inputs"].items() if isinstance(shape, list)}
        if not shapes or not all(_is_count(size) for shape in shapes.values() for size in shape):
            raise ValueError(f"its inputs are {given['inputs']!r}")
        splits = given.get("splits", {})
        if not isinstance(splits, Mapping) or not all(
            count is None or _is_count(count) for count in splits.values()
        ):
            raise ValueError(f"its splits are {splits!r}")
        return cls(**{**given, "inputs": shapes, "outputs": _outputs(given["outputs"])})


HEADS = ("linear", "handler", "env")
"""Values of `TaskCard.head`."""

KINDS: Mapping[str, type] = {
    "id": str,
    "title": str,
    "env": str,
    "inputs": Mapping,
    "outputs": Mapping,
    "metric": str,
    "higher_is_better": bool,
    "head": str,
    "values": Mapping,
    "data": str,
}
"""Types of the values of a card."""


def _outputs(values: Mapping[str, Any]) -> Outputs:
    size, names = values.get("size"), values.get("names", [])
    if size is not None and not _is_count(size):
        raise ValueError(f"its outputs have size {size!r}")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its outputs have names {names!r}")
    return Outputs(values.get("kind", ""), size, tuple(names))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
