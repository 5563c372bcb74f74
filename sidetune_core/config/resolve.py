"""From names to classes and checked options: everything about a composition that can be known before data is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, ENV, LEARNER, MERGER, SIDE, Kind
from sidetune_core.config.options import structure, unstructure
from sidetune_core.config.registry import Plugin
from sidetune_core.config.spec import DEFAULTS, Choice, RunSpec, TrainOptions, choice
from sidetune_core.errors import OptionError


@attrs.frozen
class Part:
    """A chosen part: where it comes from, its class, and its options."""

    plugin: Plugin
    cls: type[Any]
    config: Any

    @property
    def choice(self) -> str:
        """The name that means this plugin whatever else is installed: ``sidetune/ewc``, or ``my_module:MyLearner``."""
        local = self.plugin.distribution == registry.LOCAL
        return self.plugin.name if local else f"{self.plugin.distribution}/{self.plugin.name}"

    @property
    def owner(self) -> str:
        """``learner 'ewc'``"""
        return f"{self.plugin.kind.name} '{self.plugin.name}'"


@attrs.frozen
class Composition:
    """A spec whose plugins are loaded and whose options hold."""

    parts: Mapping[str, Part]
    """By slot; slots that the learner does not use are absent."""
    train: TrainOptions
    seed: int

    def resolved(self) -> RunSpec:
        """The spec with every name and option written out, which gives the same run wherever it is used."""
        choices = {slot: Choice(part.choice, unstructure(part.config)) for slot, part in self.parts.items()}
        return RunSpec(train=unstructure(self.train), seed=self.seed).with_parts(choices)

    def __str__(self) -> str:
        networks = " + ".join(self.parts[slot].plugin.name for slot in ("base", "side") if slot in self.parts)
        names = [self.parts["env"].plugin.name, networks]
        names += [self.parts[slot].plugin.name for slot in ("merger", "learner") if slot in self.parts]
        return " · ".join([*filter(None, names), f"seed {self.seed}"])


def usable(spec: RunSpec) -> frozenset[str]:
    """Which kinds of network part the learner of `spec` has a use for."""
    _, learner = _load(LEARNER, spec.learner)
    kinds: frozenset[str] = learner.needs | learner.takes
    return kinds


def load_parts(spec: RunSpec) -> dict[str, tuple[Plugin, type[Any]]]:
    """The classes that a spec names or leaves to the defaults.

    Raises:
        PluginError: see `registry`.
        OptionError: a slot is set that the learner has no use for.
    """
    learner = _load(LEARNER, spec.learner)
    chosen = {"learner": learner, "env": _load(ENV, spec.env)}
    needs, takes = learner[1].needs, learner[1].takes
    wanted = set(needs)
    if SIDE.name in takes and (spec.side is not None or (MERGER.name in takes and spec.merger is not None)):
        wanted |= {SIDE.name} | ({MERGER.name} & takes)
    wanted |= {slot for slot in takes if spec.part(slot) is not None}
    suited = chosen["env"][1].parts
    for one in (BASE, SIDE, MERGER):
        if one.name in wanted:
            chosen[one.name] = _load(one, spec.part(one.name) or choice(suited.get(one.name)))
        elif spec.part(one.name) is not None:
            raise OptionError(f"learner '{learner[0].name}' uses no {one.name}; leave out --{one.name}")
    return {slot: chosen[slot] for slot in DEFAULTS if slot in chosen}


def completed(spec: RunSpec, classes: Mapping[str, type[Any]]) -> RunSpec:
    """The spec with the parts that suit its env, in the slots that are used and that it leaves open."""
    suited = classes["env"].parts
    return spec.with_parts(
        {slot: choice(suited[slot]) for slot in classes if slot in suited and spec.part(slot) is None}
    )


def compose(spec: RunSpec) -> Composition:
    """Load every part of `spec` and check every option.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    loaded, parts = load_parts(spec), {}
    spec = completed(spec, {slot: cls for slot, (_, cls) in loaded.items()})
    for slot, (plugin, cls) in loaded.items():
        asked = spec.part(slot)
        config = structure(cls.Config, asked.options if asked else {}, f"{slot} '{plugin.name}'")
        parts[slot] = Part(plugin, cls, config)
    train = structure(TrainOptions, train_values(spec, parts["env"].cls), "--train")
    return Composition(parts, train, spec.seed)


def compose_env(asked: Choice) -> Part:
    """An env by itself.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    plugin, cls = _load(ENV, asked)
    return Part(plugin, cls, structure(cls.Config, asked.options, f"env '{plugin.name}'"))


def train_values(spec: RunSpec, env: type[Any]) -> dict[str, Any]:
    """What is set among the training options: the env's recipe, then what the spec asks for."""
    asked = {name.replace("-", "_"): value for name, value in spec.train.items()}
    recipe = dict(env.recipe)
    if "steps" in asked and "epochs" not in asked:
        recipe.pop("epochs", None)  # the user's way of counting wins over the recipe's
    return {**recipe, **asked}


def _load(kind: Kind, asked: Choice | None) -> tuple[Plugin, type[Any]]:
    plugin = registry.find(kind, asked.name if asked else DEFAULTS[kind.name])
    return plugin, registry.load(plugin)
