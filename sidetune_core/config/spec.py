"""The composition of a run as data: names, options, seed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from sidetune_core.config.options import at_least, at_most, more_than, option, structure
from sidetune_core.errors import OptionError

DEFAULTS: Mapping[str, str] = {
    "base": "resnet44",
    "side": "fcn4",
    "merger": "alpha",
    "learner": "sidetune",
    "env": "digits",
}
"""What a slot holds where neither the user nor a spec names a part."""


@attrs.frozen
class TrainOptions:
    """How every task is trained (``--train.*``). An env's recipe replaces these defaults, the user replaces both."""

    steps: int = option(200, "optimiser steps for a task", at_least(0))
    epochs: float | None = option(
        None, "passes over a task's training data; where given, it replaces 'steps'", at_least(0)
    )
    batch: int = option(128, "examples in a batch", at_least(1))
    accumulate: int = option(1, "batches whose gradients are averaged for one optimiser step", at_least(1))
    lr: float = option(1e-3, "learning rate, or its peak where a schedule is set", at_least(0))
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser, a new one for every task")
    eps: float = option(1e-8, "what adam and adamw add to the root of the second moment", more_than(0))
    momentum: float = option(0.9, "momentum of sgd (Nesterov's)", at_least(0), at_most(1))
    weight_decay: float = option(0.0, "weight decay; mergers have none", at_least(0))
    schedule: Literal["constant", "cosine", "one-cycle", "linear"] = option(
        "constant",
        "learning rate over a task: constant, cosine to zero, or linear up over the first 'warmup' and then to zero, as a cosine "
        "('one-cycle') or in a line ('linear')",
    )
    warmup: float = option(
        0.15, "share of the steps that 'one-cycle' and 'linear' climb", at_least(0), at_most(1)
    )
    clip: float | None = option(
        1.0, "largest norm of the gradient, at every step; None for no limit", more_than(0)
    )
    device: str = option("auto", "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto",
        "arithmetic of the networks: auto is bf16 autocast where the hardware has bf16 units, else fp32; weights stay fp32",
    )
    channels_last: bool | None = option(
        None, "memory layout of images and convolutions; None is on where it is faster"
    )
    store: Literal["memory", "disk", "off"] = option(
        "memory",
        "keep a frozen base's outputs on inputs that do not change: for this run, on disk for later runs too, or not",
    )
    store_limit: float = option(
        2.0, "most that the stored outputs may take, in GiB; beyond it they are computed again", more_than(0)
    )
    store_dir: Path = option(Path("~/.cache/sidetune/store"), "folder of the store on disk")


@attrs.frozen
class Choice:
    """A part by name, with the options that were asked for; all others have their defaults."""

    name: str
    options: dict[str, Any] = attrs.field(factory=dict)


def choice(value: Choice | str | Mapping[str, Any] | None) -> Choice | None:
    """A `Choice` out of what is handy in Python: ``"ewc"``, or ``{"name": "ewc", "coef": 10.0}``."""
    if value is None or isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return Choice(value)
    rest = dict(value)
    if not isinstance(rest.get("name"), str):
        raise OptionError(
            f"a part is chosen by its name, such as {{'name': 'ewc', 'coef': 10.0}}; got {dict(value)}"
        )
    name = rest.pop("name")
    nested = rest.pop("options", {})
    if not isinstance(nested, Mapping):
        raise OptionError(f"the options of '{name}' are a table of names and values, not {nested!r}")
    return Choice(name, {**nested, **rest})


@attrs.frozen
class RunSpec:
    """One composition of names and options. A slot that is None takes its default, if the learner has a use for it.

    RunSpec(learner="ewc", env={"name": "icifar", "tasks": 3}, train={"lr": 1e-3}, seed=1)
    """

    base: Choice | None = attrs.field(default=None, converter=choice)
    side: Choice | None = attrs.field(default=None, converter=choice)
    merger: Choice | None = attrs.field(default=None, converter=choice)
    learner: Choice | None = attrs.field(default=None, converter=choice)
    env: Choice | None = attrs.field(default=None, converter=choice)
    train: dict[str, Any] = attrs.field(factory=dict, converter=dict)
    seed: int = 0

    def component(self, slot: str) -> Choice | None:
        """What is asked for in the slot 'base', 'side', 'merger', 'learner' or 'env'."""
        chosen: Choice | None = getattr(self, slot)
        return chosen

    def with_components(self, components: Mapping[str, Choice | None]) -> RunSpec:
        """The same spec with other choices in some slots."""
        values: dict[str, Any] = {slot: self.component(slot) for slot in DEFAULTS}
        return RunSpec(**{**values, **components}, train=self.train, seed=self.seed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_values` reads them back."""
        return attrs.asdict(
            self, value_serializer=lambda _, __, value: str(value) if isinstance(value, Path) else value
        )


def from_values(values: Any, source: str) -> RunSpec:
    """A spec from plain values. `source` is for the message.

    Raises:
        OptionError: a key is unknown or a value is of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{source}: a spec is a table of base, side, merger, learner, env, train and seed, not {type(values).__name__}"
        )
    slots = {slot: values[slot] for slot in DEFAULTS if slot in values}
    for slot, value in slots.items():
        if value is not None and not isinstance(value, str | Mapping):
            raise OptionError(f"{source}: {slot} is a name or a table with a name and options, not {value!r}")
    rest = structure(_Rest, {key: value for key, value in values.items() if key not in DEFAULTS}, source)
    return RunSpec(**slots, train=rest.train, seed=rest.seed)


def read_spec(path: Path) -> RunSpec:
    """A spec from a ``.toml`` or ``.json`` file, or from the ``run.json`` of a run (as it was resolved).

    Raises:
        OptionError: the file is missing, damaged, or holds something else.
    """
    values = read_values(path)
    if isinstance(values, Mapping) and "resolved" in values:
        values = values["resolved"]
    return from_values(values, str(path))


def read_values(path: Path) -> Any:
    """What is in a ``.toml`` or ``.json`` file.

    Raises:
        OptionError: the file is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read the spec {path}: {error}") from error


@attrs.frozen
class _Rest:
    train: dict[str, Any] = attrs.field(factory=dict)
    seed: int = 0
