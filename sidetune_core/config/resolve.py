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
class ResolvedComponent:
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
class ResolvedRun:
    """A spec whose plugins are loaded and whose options hold."""

    components: Mapping[str, ResolvedComponent]
    """By slot; slots that the learner does not use are absent."""
    train: TrainOptions
    seed: int

    def to_spec(self) -> RunSpec:
        """The spec with every name and option written out, which gives the same run wherever it is used."""
        choices = {
            slot: Choice(component.choice, unstructure(component.config))
            for slot, component in self.components.items()
        }
        return RunSpec(train=unstructure(self.train), seed=self.seed).with_components(choices)

    def __str__(self) -> str:
        networks = " + ".join(
            self.components[slot].plugin.name for slot in ("base", "side") if slot in self.components
        )
        names = [self.components["env"].plugin.name, networks]
        names += [
            self.components[slot].plugin.name for slot in ("merger", "learner") if slot in self.components
        ]
        return " · ".join([*filter(None, names), f"seed {self.seed}"])


def usable(spec: RunSpec) -> frozenset[str]:
    """Which kinds of network part the learner of `spec` has a use for."""
    _, learner = _load(LEARNER, spec.learner)
    kinds: frozenset[str] = learner.needs | learner.optional_components
    return kinds


def load_components(spec: RunSpec) -> dict[str, tuple[Plugin, type[Any]]]:
    """The classes that a spec names or leaves to the defaults.

    Raises:
        PluginError: see `registry`.
        OptionError: a slot is set that the learner has no use for.
    """
    learner = _load(LEARNER, spec.learner)
    chosen = {"learner": learner, "env": _load(ENV, spec.env)}
    needs, optional_components = learner[1].needs, learner[1].optional_components
    wanted = set(needs)
    if SIDE.name in optional_components and (
        spec.side is not None or (MERGER.name in optional_components and spec.merger is not None)
    ):
        wanted |= {SIDE.name} | ({MERGER.name} & optional_components)
    wanted |= {slot for slot in optional_components if spec.component(slot) is not None}
    suited = chosen["env"][1].default_components
    for one in (BASE, SIDE, MERGER):
        if one.name in wanted:
            chosen[one.name] = _load(one, spec.component(one.name) or choice(suited.get(one.name)))
        elif spec.component(one.name) is not None:
            raise OptionError(f"learner '{learner[0].name}' uses no {one.name}; leave out --{one.name}")
    return {slot: chosen[slot] for slot in DEFAULTS if slot in chosen}


def completed(spec: RunSpec, classes: Mapping[str, type[Any]]) -> RunSpec:
    """The spec with the parts that suit its env, in the slots that are used and that it leaves open."""
    suited = classes["env"].default_components
    return spec.with_components(
        {slot: choice(suited[slot]) for slot in classes if slot in suited and spec.component(slot) is None}
    )


def resolve(spec: RunSpec) -> ResolvedRun:
    """Load every part of `spec` and check every option.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    loaded, components = load_components(spec), {}
    spec = completed(spec, {slot: cls for slot, (_, cls) in loaded.items()})
    for slot, (plugin, cls) in loaded.items():
        asked = spec.component(slot)
        config = structure(cls.Config, asked.options if asked else {}, f"{slot} '{plugin.name}'")
        components[slot] = ResolvedComponent(plugin, cls, config)
    train = structure(TrainOptions, train_values(spec, components["env"].cls), "--train")
    return ResolvedRun(components, train, spec.seed)


def resolve_env(asked: Choice) -> ResolvedComponent:
    """An env by itself.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    plugin, cls = _load(ENV, asked)
    return ResolvedComponent(plugin, cls, structure(cls.Config, asked.options, f"env '{plugin.name}'"))


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
