"""Components that the user chooses to check a plugin with, in place of the kit's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch

from sidetune_core.config import kinds, registry
from sidetune_core.config.options import structure
from sidetune_core.errors import OptionError
from sidetune_core.interfaces.inputs import Inputs, InputShapes
from sidetune_core.interfaces.learner import Components
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.testing import sample
from sidetune_core.testing.findings import SEED
from sidetune_core.testing.specimen import Examples, tiny_base
from sidetune_core.testing.stream import BATCH, batches

Choices = Mapping[str, str | Mapping[str, object]]
"""Components by kind: a name, or a mapping with ``name`` and options."""
ACCEPTED = {
    "base": ("env",),
    "side": ("base", "env"),
    "merger": ("base", "env"),
    "learner": ("base", "side", "merger", "env"),
    "env": (),
}
"""Kinds of component that a plugin of each kind may be checked with."""
TASKS = 2
"""Tasks of an env on which a learner is checked."""


@attrs.frozen(eq=False, slots=False)
class Given:
    """The chosen components: class and options by kind."""

    chosen: Mapping[str, tuple[type[Any], Any]]

    @cached_property
    def _stream(self) -> TaskStream | None:
        if "env" not in self.chosen:
            return None
        cls, config = self.chosen["env"]
        stream: TaskStream = cls(config, SEED)
        return stream

    @cached_property
    def _all_tasks(self) -> Sequence[Task]:
        return self._stream.tasks()[:TASKS] if self._stream is not None else sample.tasks()

    def tasks(self) -> Sequence[Task]:
        """The tasks to train on."""
        return self._all_tasks if self._stream is not None else sample.tasks()

    @property
    def inputs(self) -> InputShapes:
        """Shapes of the inputs."""
        return sample.INPUTS if self._stream is None else self._stream.inputs

    @cached_property
    def examples(self) -> Examples:
        """Inputs by id: of the env's first training batch."""
        if self._stream is None:
            return sample.images
        batch = next(batches(self.tasks()[0])).inputs

        def select(ids: Sequence[int]) -> Inputs:
            rows = torch.tensor([example_id % BATCH for example_id in ids])
            lengths = None if batch.lengths is None else batch.lengths[rows]
            return Inputs({name: value[rows] for name, value in batch.items()}, lengths=lengths)

        return select

    def base(self, pretrained: bool = True) -> Base:
        """A new base."""
        if "base" in self.chosen:
            cls, config = self.chosen["base"]
            base: Base = cls(config, self.inputs)
            return base
        return sample.TinyBase((64,), self.inputs)

    def frozen_base(self) -> Base:
        """A base in eval mode, for the kit to run."""
        if "base" not in self.chosen and self._stream is None:
            return tiny_base((64,))
        with seeded(SEED, "kit"):
            return self.base().eval().requires_grad_(False)

    def _side(self, base: Base, pretrained: bool = True) -> Side:
        if "side" not in self.chosen:
            return sample.TinySide(base.shape, self.inputs)
        cls, config = self.chosen["side"]
        side: Side = cls(config, self.inputs, base)
        return side

    def _merger(self, base: Base, count: int) -> Merger:
        if "merger" not in self.chosen:
            return sample.TinyMerger(count)
        cls, config = self.chosen["merger"]
        merger: Merger = cls(config, base.shape, count)
        return merger

    def components(self, kinds_of_component: frozenset[str]) -> Components:
        """Factories for a learner that uses some kinds of component."""
        side = self._side if "side" in kinds_of_component else None
        merger = self._merger if "merger" in kinds_of_component else None
        return Components(self.inputs, self.base, side, merger)


def load(kind: str, choices: Choices) -> Given:
    """Load the components that the user chose to check a plugin of some kind with.

    Raises:
        PluginError: there is no such component.
        OptionError: a component has no such option, does not apply to this kind, or has to be chosen too.
    """
    chosen = {}
    for slot, choice in choices.items():
        if slot not in ACCEPTED[kind]:
            usable = " and ".join(f"--{one}" for one in ACCEPTED[kind]) or "no others"
            raise OptionError(f"--{slot} does not apply to the check of a component of kind {kind}: {usable}")
        options = {} if isinstance(choice, str) else dict(choice)
        name = choice if isinstance(choice, str) else str(options.pop("name"))
        cls = registry.load(registry.find(kinds.kind(slot), name, trust_local_code=True))
        chosen[slot] = (cls, structure(cls.Config, options, f"{slot} '{name}'"))
    given = Given(chosen)
    if kind != "base" and "base" not in chosen and not _fits_the_kit(given.inputs):
        raise OptionError("the kit's own base does not fit the inputs of this env; choose one with --base")
    return given


def _fits_the_kit(inputs: InputShapes) -> bool:
    image = inputs.get("image", ())
    return len(inputs) == 1 and len(image) == 3 and all(size % 8 == 0 for size in image[1:])
