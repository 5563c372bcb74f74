"""From names to classes and checked options: all of a run that is known before data is read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import attrs

from sidetune_core.config import inventory, kinds, registry
from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.data_paths import relative_to_file
from sidetune_core.config.defaults import AUTO, DEFAULTS
from sidetune_core.config.differences import merged
from sidetune_core.config.kinds import BASE, ENV, LEARNER, MERGER, SIDE, Kind
from sidetune_core.config.option_tables import (
    TABLES,
    WITHIN_TASK,
    CacheOptions,
    DeviceOptions,
    Tables,
    TrainOptions,
    respell_tables,
)
from sidetune_core.config.options import (
    describe,
    flat_options,
    imported_names,
    respell,
    structure,
    unstructure,
    with_former_defaults,
)
from sidetune_core.config.plugin_record import PluginChange, PluginRecord, changes, make_record
from sidetune_core.config.registry import Plugin
from sidetune_core.config.scenario_check import check_scenario
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError, PluginError, SidetuneError, UntrustedCode, WeightsError
from sidetune_core.scenarios import DEFAULT, Scenario, title

Loaded = tuple[Plugin, type[Any]]
"""A plugin and its class."""


@attrs.frozen
class ResolvedComponent:
    """A chosen component: its plugin, its class, and its options."""

    plugin: Plugin
    cls: type[Any]
    config: Any
    given: Any = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """The object that it is made of (see `MadeFromObject`); None for a component by name."""

    @property
    def choice(self) -> str:
        """The name that is unique among all installed packages: ``sidetune/ewc``, or
        ``my_module:MyLearner``."""
        local = self.plugin.distribution == registry.LOCAL
        return self.plugin.name if local else f"{self.plugin.distribution}/{self.plugin.name}"

    @property
    def owner(self) -> str:
        """``learner 'ewc'``"""
        return _owner(self.plugin)

    @property
    def title(self) -> str:
        """``timm resnet18``: the name, and the options that its ``Config`` lists as `shown`."""
        shown = getattr(type(self.config), "shown", ())
        values = (str(getattr(self.config, option)).rstrip("/").rpartition("/")[2] for option in shown)
        return " ".join([self.plugin.name, *values])

    @property
    def names_code(self) -> bool:
        """Whether it, or one of its options, is the name of code to import."""
        return self.plugin.distribution == registry.LOCAL or any(imported_names(self.config))


@attrs.frozen
class ResolvedRun:
    """A spec whose plugins are loaded and whose options are valid."""

    components: Mapping[str, ResolvedComponent]
    """By slot; slots that the learner does not use are absent."""
    train: TrainOptions
    seed: int
    cache: CacheOptions = CacheOptions()
    device: DeviceOptions = DeviceOptions()
    requested: RunSpec | None = attrs.field(default=None, eq=False)
    """The spec that was resolved."""
    open_side: bool = attrs.field(default=False, eq=False)
    """Whether the side is still to be chosen (see `assembly.choose`); it is the default until then."""
    unfitted: str = attrs.field(default="", eq=False)
    """Why the options of an env of images could not be taken from the base, such as a Hub that cannot be
    reached; such a run can be shown, and not be begun."""
    scenario: Scenario = DEFAULT

    @property
    def trusts_data(self) -> bool:
        """Whether names of code in the data are imported: see `Trust`."""
        return self.requested is not None and self.requested.trust_local_code is True

    @property
    def needs_trust(self) -> bool:
        """Whether its run folder can be used with ``--trust-local-code`` only: the spec, or the data, names
        code to import."""
        return self.trusts_data or any(component.names_code for component in self.components.values())

    def to_spec(self) -> RunSpec:
        """The spec with every name and option written out, which resolves to the same run everywhere."""
        values: dict[str, Any] = {
            slot: Choice(component.choice, unstructure(component.config))
            for slot, component in self.components.items()
        }
        values |= {table: unstructure(getattr(self, table)) for table in TABLES}
        unset = unstructure(TrainOptions())
        for name in WITHIN_TASK:
            if values["train"][name] == unset[name]:
                del values["train"][name]
        return RunSpec(**values, seed=self.seed, scenario=self.scenario)

    def plugin_records(self) -> dict[str, PluginRecord]:
        """The components by slot, with digests of their source."""
        return {slot: make_record(slot, component.plugin) for slot, component in self.components.items()}

    def plugin_changes(self) -> list[PluginChange]:
        """The components that are not those which the spec was recorded with; none for a spec of the
        user's."""
        spec = self.requested
        if spec is None or not spec.plugins:
            return []
        chosen = {slot: spec.component(slot) for slot in spec.plugins}
        recorded = {
            slot: record
            for slot, record in spec.plugins.items()
            if (component := chosen[slot]) is not None and component.name == record.name
        }
        return changes(recorded, self.plugin_records())

    def __str__(self) -> str:
        return self._composition({slot: component.title for slot, component in self.components.items()})

    @property
    def former_composition(self) -> str:
        """The same in the words of earlier versions, without the options in `ResolvedComponent.title`."""
        return self._composition({slot: one.plugin.name for slot, one in self.components.items()})

    def _composition(self, names: Mapping[str, str]) -> str:
        networks = " + ".join(names[slot] for slot in ("base", "side") if slot in names)
        others = [names[slot] for slot in ("merger", "learner") if slot in names]
        scenario = "" if self.scenario == DEFAULT else title(self.scenario)
        parts = [names["env"], scenario, networks, *others]
        return " · ".join([*filter(None, parts), f"seed {self.seed}"])


def usable(spec: RunSpec) -> frozenset[str]:
    """The kinds of network component that the learner of `spec` can use."""
    _, learner = _load(LEARNER, spec.learner, spec)
    kinds: frozenset[str] = learner.needs | learner.optional_components
    return kinds


def load_components(spec: RunSpec) -> dict[str, Loaded]:
    """The plugins and classes of a spec, with defaults in the slots that it leaves open.

    Raises:
        PluginError: see `registry`.
        OptionError: a slot is set that the learner does not use.
    """
    scanned = inventory.scan()
    learner, env = (_load(kind, spec.component(kind.name), spec, scanned) for kind in (LEARNER, ENV))
    used = _used_slots(spec, learner[1])
    suggested = suggested_components(env)
    loaded = {"learner": learner, "env": env}
    for kind in (BASE, SIDE, MERGER):
        chosen = spec.component(kind.name)
        if kind.name in used:
            named = None if chosen is not None and _is_auto(kind, chosen) else chosen
            default = suggested.get(kind.name) if chosen is None else None
            loaded[kind.name] = _load(kind, named or default, spec, scanned)
        elif chosen is not None:
            raise OptionError(f"learner '{learner[0].name}' uses no {kind.name}; leave out --{kind.name}")
    return {slot: loaded[slot] for slot in DEFAULTS if slot in loaded}


def _is_auto(kind: Kind, chosen: Choice) -> bool:
    return kind is SIDE and chosen.name == AUTO


def _used_slots(spec: RunSpec, learner: type[Any]) -> set[str]:
    """The network slots of a run: those the learner needs, and those it can use that the spec asks for."""
    optional = learner.optional_components
    used = set(learner.needs) | {slot for slot in optional if spec.component(slot) is not None}
    if SIDE.name in optional and used & {SIDE.name, MERGER.name} & optional:
        used |= {SIDE.name} | ({MERGER.name} & optional)
    return used


def suggested_components(env: Loaded) -> dict[str, Choice]:
    """The components that an env suggests. A bare name is one of the env's own distribution if that has
    it."""
    plugin, cls = env
    suggested: dict[str, Choice] = {}
    for slot, value in cls.default_components.items():
        component = choice(value)
        if component is None:
            continue
        qualified = f"{plugin.distribution}/{component.name}"
        if registry.ships(plugin.distribution, slot, component.name):
            component = attrs.evolve(component, name=qualified)
        suggested[slot] = component
    return suggested


def completed(spec: RunSpec, loaded: Mapping[str, Loaded]) -> RunSpec:
    """The spec with the components that its env suggests, in the slots that are used and that it leaves
    open; and with the options that the recipe of the env has for components, where it sets them not. A
    recorded spec has all options, and those that its version had not have their former values or defaults."""
    suggested = suggested_components(loaded["env"])
    spec = spec.with_components(
        {slot: suggested[slot] for slot in loaded if slot in suggested and spec.component(slot) is None}
    )
    spec = spec.with_components(
        {
            slot: _as_recorded(chosen, component, cls)
            for slot, (component, cls) in loaded.items()
            if (chosen := spec.component(slot)) is not None and chosen.recorded
        }
    )
    if spec.recorded:
        return spec
    plugin, env = loaded["env"]
    choices: dict[str, Choice] = {}
    for slot, (component, cls) in loaded.items():
        defaults = recipe_options(env.recipe, slot, component.name)
        chosen = spec.component(slot) or Choice(DEFAULTS[slot])
        if not defaults or chosen.recorded:
            continue
        owner = _owner(component)
        chosen_options = respell(cls.Config, chosen.options, owner)
        defaults = respell(cls.Config, defaults, f"{_owner(plugin)}: recipe of {owner}")
        choices[slot] = attrs.evolve(chosen, options=merged(defaults, chosen_options))
    return spec.with_components(choices)


def _as_recorded(chosen: Choice, plugin: Plugin, cls: type[Any]) -> Choice:
    return attrs.evolve(chosen, options=with_former_defaults(cls.Config, chosen.options, _owner(plugin)))


def resolve(spec: RunSpec) -> ResolvedRun:
    """Load every component of `spec` and check every option.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    loaded = load_components(spec)
    spec = completed(spec, loaded)
    components = {
        slot: ResolvedComponent(
            plugin, cls, structured(spec, slot, plugin, cls), given=given_to(spec.component(slot))
        )
        for slot, (plugin, cls) in loaded.items()
    }
    tables = structured_tables(spec, components["env"].plugin, components["env"].cls)
    components, unfitted = fitted(components, spec)
    check_scenario(loaded["learner"][0].name, loaded["learner"][1], spec.scenario)
    return ResolvedRun(
        components=components,
        seed=spec.seed,
        requested=spec,
        open_side=is_open(spec) and SIDE.name in components,
        unfitted=unfitted,
        scenario=spec.scenario,
        **tables,
    )


def is_open(spec: RunSpec) -> bool:
    """Whether a completed spec leaves the side to `assembly.choose`."""
    return spec.side is None or spec.side.name == AUTO


def fitted(
    components: Mapping[str, ResolvedComponent], spec: RunSpec
) -> tuple[dict[str, ResolvedComponent], str]:
    """The components with the options of an env of images that the spec leaves to the base (see the
    capabilities `DeclaresImageInput` and `FitsImages`). An env that was recorded before it had these options
    has their defaults. Also why the base cannot be asked; empty if it was.

    Raises:
        OptionError: the base has no such network.
    """
    env, base = components[ENV.name], components.get(BASE.name)
    fit = getattr(env.cls, "fit_images", None)
    if fit is None:
        return dict(components), ""
    recorded = spec.env is not None and spec.env.recorded
    declares = getattr(base.cls, "image_input", None) if base is not None and not recorded else None
    try:
        images = declares(base.config) if declares is not None and base is not None else None
    except WeightsError as error:
        return dict(components), str(error)
    return {**components, ENV.name: attrs.evolve(env, config=fit(env.config, images))}, ""


def given_to(chosen: Choice | None) -> Any:
    """The object of a choice; None if there is none."""
    return None if chosen is None else chosen.given


def with_present_names(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Resolved specs of several versions with components and their options under their present names.

    An option that only later versions have is given its default, as where a run is resumed.

    Nothing is loaded if all specs name the options of each component alike. A component that cannot be loaded
    keeps the names that were recorded.
    """
    specs = _with_present_components(specs)
    chosen = [(slot, spec.component(slot)) for spec in specs for slot in DEFAULTS]
    names: dict[tuple[str, str], set[frozenset[str]]] = {}
    for slot, component in chosen:
        if component is not None:
            names.setdefault((slot, component.name), set()).add(frozenset(component.options))
    if all(len(sets) == 1 for sets in names.values()):
        return list(specs)
    configs: dict[tuple[str, str], type[Any] | None] = {key: _config_class(*key) for key in names}

    def present(slot: str, component: Choice | None) -> Choice | None:
        config = configs[slot, component.name] if component is not None else None
        if component is None or config is None:
            return component
        options = respell(config, component.options, f"{slot} '{component.name}'", recorded=True)
        recorded = set().union(*names[slot, component.name])
        defaults = {
            field.name: field.default
            for field in (attrs.fields(config) if attrs.has(config) else ())
            if field.name in recorded and isinstance(field.default, bool | int | float | str | None)
        }
        options = with_former_defaults(config, options, f"{slot} '{component.name}'")
        return Choice(component.name, json.loads(json.dumps({**defaults, **options}, default=str)))

    return [
        spec.with_components({slot: present(slot, spec.component(slot)) for slot in DEFAULTS})
        for spec in specs
    ]


def _with_present_components(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Former names of components replaced, in the slots where the specs differ."""
    for slot in DEFAULTS:
        names = {component.name for spec in specs if (component := spec.component(slot)) is not None}
        if len(names) < 2:
            continue
        former = {
            f"{plugin.distribution}/{name}": f"{plugin.distribution}/{plugin.name}"
            for name, plugin in inventory.scan((kinds.kind(slot),)).former[kinds.kind(slot)]
        }
        specs = [
            spec.with_components({slot: attrs.evolve(component, name=former[component.name])})
            if (component := spec.component(slot)) is not None and component.name in former
            else spec
            for spec in specs
        ]
    return list(specs)


def _config_class(slot: str, name: str) -> type[Any] | None:
    try:
        _, cls = _load(kinds.kind(slot), Choice(name, file="run.json"))
    except SidetuneError:
        return None
    config: type[Any] = cls.Config
    return config


def structured(spec: RunSpec, slot: str, plugin: Plugin, cls: type[Any]) -> Any:
    """The ``Config`` of a component with the options of a spec."""
    chosen = spec.component(slot)
    with recorded_version_named(spec, slot):
        options = chosen.options if chosen else {}
        if chosen is not None and chosen.folder:
            options = relative_to_file(cls.Config, options, _owner(plugin), chosen.folder)
        config = structure(cls.Config, options, _owner(plugin), spec.recorded)
    check_imports(config, chosen, _owner(plugin))
    return config


def check_imports(config: Any, chosen: Choice | None, owner: str, typed: Collection[str] = ()) -> None:
    """Check that no file gives the options of a component that name code (see `option`).

    Args:
        config: its ``Config``.
        chosen: the component as it was chosen.
        owner: the component, for the message.
        typed: names of the options that the user has typed, which replace those of the file.

    Raises:
        UntrustedCode: one is read from a file that is not trusted.
    """
    if chosen is None or not chosen.file:
        return
    given = flat_options(type(config), chosen.options, owner, recorded=True)
    for option, code in imported_names(config):
        if option in given and option not in typed:
            raise UntrustedCode(f"{owner}: '{code}' of option {option} in {chosen.file} is code to import")


def resolve_env(chosen: Choice) -> ResolvedComponent:
    """An env by itself; one that was recorded has the former values of options that it had not.

    Raises:
        PluginError, OptionError: with what to type next.
    """
    plugin, cls = _load(ENV, chosen)
    if chosen.recorded:
        chosen = _as_recorded(chosen, plugin, cls)
    config = structure(cls.Config, chosen.options, _owner(plugin))
    check_imports(config, chosen, _owner(plugin))
    return ResolvedComponent(plugin, cls, config)


def structured_tables(spec: RunSpec, plugin: Plugin, env: type[Any]) -> dict[str, Any]:
    """`TrainOptions`, `CacheOptions` and `DeviceOptions`: the env's recipe, replaced by what the spec
    sets."""
    tables = recipe_tables(env.recipe, _owner(plugin), spec.recorded)
    if "steps" in spec.train and "epochs" not in spec.train:
        tables["train"].pop("epochs", None)  # the unit that the user chose replaces the recipe's
    return {
        table: structure(config, {**tables[table], **getattr(spec, table)}, f"--{table}", spec.recorded)
        for table, config in TABLES.items()
    }


def recipe_tables(recipe: Mapping[str, Any], owner: str, recorded: bool = False) -> Tables:
    """The options of training, cache and device in an env's recipe, by table: bare names are options of
    training, others are written ``device.precision``."""
    train = {name: value for name, value in recipe.items() if not _of_component(name)}
    return respell_tables({"train": train}, f"{owner}: recipe", recorded)


def recipe_options(recipe: Mapping[str, Any], slot: str, name: str) -> dict[str, Any]:
    """The options in an env's recipe for one component: those of ``learner.sidetune.begin``, without the
    first two words."""
    prefix = f"{slot}.{name}."
    return {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}


def recipe_components(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The slots and names of the components for which an env's recipe has options."""
    parts = (key.split(".", 2) for key in recipe if _of_component(key))
    return list(dict.fromkeys((slot, name) for slot, name, _ in parts))


def recipe_lines(components: Mapping[str, ResolvedComponent]) -> list[str]:
    """The options of components that an env's recipe changes: ``learner sidetune: begin base by default in
    env 'imitation' (its own default: --learner.begin merger)``."""
    env = components[ENV.name]
    lines = []
    for slot, component in components.items():
        defaults = {info.name: info.default for info in describe(type(component.config))}
        recipe = recipe_options(env.cls.recipe, slot, component.plugin.name)
        for name, value in recipe.items():
            flag = name.replace("_", "-")
            if attrgetter(name.replace("-", "_"))(component.config) == value != defaults[flag]:
                lines.append(
                    f"{slot} {component.plugin.name}: {flag} {value} by default in {env.owner} "
                    f"(its own default: --{slot}.{flag} {defaults[flag]})"
                )
    return lines


def advice_lines(resolved: ResolvedRun) -> list[str]:
    """The options of training that the env's options recommend (``recommended_training`` of its ``Config``,
    by name of `TrainOptions`) and that a run has not; empty if it has them all."""
    env = resolved.components[ENV.name]
    recommended: Mapping[str, Any] = getattr(env.config, "recommended_training", {})
    other = {name: value for name, value in recommended.items() if getattr(resolved.train, name) != value}
    if not other:
        return []
    flags = " ".join(f"--train.{name.replace('_', '-')} {value}" for name, value in other.items())
    here = ", ".join(str(getattr(resolved.train, name)) for name in other)
    return [f"{env.owner} recommends {flags} with its options (this run: {here})"]


def _of_component(name: str) -> bool:
    """Whether a name in a recipe is that of a component's option."""
    slot, *rest = name.split(".", 2)
    return slot in DEFAULTS and slot != ENV.name and len(rest) == 2


def _owner(plugin: Plugin) -> str:
    return f"{plugin.kind.name} '{plugin.name}'"


def _load(
    kind: Kind, chosen: Choice | None, spec: RunSpec | None = None, scanned: inventory.Inventory | None = None
) -> Loaded:
    with recorded_version_named(spec, kind.name):
        name = chosen.name if chosen else DEFAULTS[kind.name]
        trusted = chosen is None or chosen.may_be_local
        if chosen is not None and ":" in name and not trusted:
            raise UntrustedCode(f"{kind.name} '{name}' in {chosen.file} is code to import")
        recorded = spec is not None and spec.recorded
        plugin = registry.find(kind, name, recorded, trusted, scanned)
        return plugin, registry.load(plugin)


@contextmanager
def recorded_version_named(spec: RunSpec | None, slot: str) -> Iterator[None]:
    """Add to an error about a component of a recorded spec how to install the version that was recorded."""
    try:
        yield
    except UntrustedCode:
        raise
    except (PluginError, OptionError) as error:
        record = spec.plugins.get(slot) if spec is not None else None
        chosen = spec.component(slot) if spec is not None else None
        if record is None or chosen is None or chosen.name != record.name or not record.install_command:
            raise
        version = inventory.installed_version(record.distribution)
        if version is None:
            message = (
                f"{record.title} is in {record.origin}, which is not installed: {record.install_command}"
            )
            raise PluginError(message) from error
        if version == record.version:
            raise
        raise type(error)(
            f"{error}. The run was made with {record.origin}: {record.install_command}".replace("..", ".")
        ) from error
