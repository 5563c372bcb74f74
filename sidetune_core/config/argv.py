"""The command line of ``sidetune-run``: first the names of components, then the options that these declare.

Two stages, because the options depend on the names. The first reads the names only; in the second, tyro reads
everything into a class that is made of the ``Config`` classes of the named components.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import attrs

from sidetune_core.config import registry
from sidetune_core.config.arguments import Argument, Spellings, make_spellings, split_arguments
from sidetune_core.config.defaults import AUTO, DEFAULTS, default_name
from sidetune_core.config.differences import flatten, merged, unflatten
from sidetune_core.config.extensions import with_env
from sidetune_core.config.kinds import KINDS, kind
from sidetune_core.config.options import describe, is_nested, respell, structure, unknown_option
from sidetune_core.config.resolve import (
    Loaded,
    ResolvedComponent,
    ResolvedRun,
    check_imports,
    completed,
    fitted,
    is_open,
    load_components,
    recorded_version_named,
    structured_tables,
    usable,
)
from sidetune_core.config.scenario_check import check_scenario
from sidetune_core.config.spec import (
    MOVED_OPTIONS,
    TABLES,
    Choice,
    RunSpec,
    TrainOptions,
    Trust,
    read_spec,
)
from sidetune_core.errors import OptionError, PluginError, suggest
from sidetune_core.io.printable import colours_allowed
from sidetune_core.scenarios import DEFAULT, Scenario

PROGRAM = "sidetune-run"

_GENERAL: dict[str, tuple[Any, Any, str]] = {
    "spec": (Path | None, None, "start from this spec: a .toml or .json file, or the run.json of a run"),
    "seed": (int, 0, "seed of all random numbers"),
    "scenario": (
        Scenario,
        DEFAULT,
        "task: the task of each example is known at test time; domain: all tasks have the same classes, and "
        "the task is not known; class: every task adds classes, and the task is not known",
    ),
    "out": (Path | None, None, "run folder, empty or absent; None for a new one in runs/"),
    "resume": (
        Path | None,
        None,
        "resume the run in this folder, to the same bytes; of other options, only --save-every and "
        "--workers can be set with it",
    ),
    "extend": (
        Path | None,
        None,
        "add the tasks of --env to the finished run in this folder, or in a copy of it (--out); components, "
        "seed, and options that are not set here are those of the run",
    ),
    "tasks": (tuple[str, ...], (), "with --extend: the tasks of --env to add, by id; all of them if not set"),
    "save_every": (
        str | None,
        None,
        "interval between checkpoints within a task, for --resume: steps (200), seconds (30s), or none for "
        "a checkpoint at interruptions only; default 60s",
    ),
    "workers": (
        str | None,
        None,
        "number of processes that train tasks side by side, or ray for those of a Ray cluster; the learner's "
        "tasks have to be independent; default 1",
    ),
    "keep": (
        Literal["all", "last"],
        "all",
        "whether earlier checkpoints keep the tensors that later tasks change (all), or only the newest "
        "checkpoint can be read, which takes less disk (last)",
    ),
    "allow_changed_plugins": (
        bool,
        False,
        "the same as --allow-changed plugins",
    ),
    "allow_changed_data": (
        bool,
        False,
        "the same as --allow-changed data",
    ),
    "allow_changed": (
        tuple[str, ...],
        (),
        "with --resume or --extend: continue although the spec in run.json ('spec'), the data ('data') or "
        "the source of a plugin ('plugins') has changed since the latest checkpoint",
    ),
    "trust_local_code": (
        bool,
        False,
        "import code that a file names: module:Class in a spec or run.json, or in data such as a recording",
    ),
    "dry_run": (bool, False, "print the resolved spec and exit"),
    "quiet": (bool, False, "print no progress"),
    "debug": (bool, False, "print the traceback of an error"),
}

OF_SPEC = ("seed", "scenario")
"""The general options that are part of a spec."""

TRUST_SPEC = "trust-spec"
"""The option of a sweep's workers that is like ``--trust-local-code``, for the spec or ``run.json`` only."""

RESUMABLE = (
    "resume",
    "save-every",
    "workers",
    "quiet",
    "debug",
    "allow-changed",
    "allow-changed-plugins",
    "allow-changed-data",
    "trust-local-code",
    TRUST_SPEC,
)
"""The options that can be combined with ``--resume``."""

FIXED = ("base", "side", "merger", "learner")
"""The components that an extension has from its run."""


@attrs.frozen
class Arguments:
    """The arguments of ``sidetune-run``."""

    spec: RunSpec
    """What was asked for."""
    resolved: ResolvedRun | None
    """The same with components loaded and options checked; None with ``--resume``."""
    out: Path | None = None
    resume: Path | None = None
    extend: Path | None = None
    """The run to which tasks of the env are added."""
    tasks: tuple[str, ...] = ()
    """Ids of these tasks; all of the env's if empty."""
    dry_run: bool = False
    quiet: bool = False
    save_every: str | None = None
    workers: str | None = None
    """Processes that train tasks side by side (see `training.run.run`)."""
    allow_changed: tuple[str, ...] = ()
    """What may have changed since a run was begun: 'spec', 'data', 'plugins'."""
    trust_local_code: Trust = False
    keep: Literal["all", "last"] = "all"
    """What earlier checkpoints keep (see `training.run.run`)."""


@attrs.frozen
class _Request:
    """The arguments that are read first."""

    names: Mapping[str, str]
    """Names of components by slot."""
    spec: Path | None
    resume: Path | None
    extend: Path | None
    save_every: str | None
    workers: str | None
    quiet: bool
    allow_changed: tuple[str, ...]
    trust_local_code: Trust
    help: bool


def parse(argv: Sequence[str], file: str = "", start: RunSpec | None = None) -> Arguments:
    """Read the arguments of ``sidetune-run``, load the components and check their options.

    Prints help and exits where that is requested.

    Args:
        argv: the arguments.
        file: the file that they were read from, which can name no code to import; empty for the words that
            the user typed.
        start: the spec to start from where no ``--spec`` is given; None for the defaults.

    Raises:
        UntrustedCode: a file names code, without ``--trust-local-code``.
        SidetuneError: a component or an option does not exist, or they do not fit together.
    """
    arguments = split_arguments(argv)
    request = _first_stage(arguments)
    if request.resume and request.extend:
        raise OptionError(
            f"--resume continues an extension that was interrupted, and --extend begins one; leave out "
            f"--extend {request.extend} or --resume {request.resume}"
        )
    if request.workers is not None and request.extend is not None:
        raise OptionError(
            f"--extend trains the tasks that it adds one after another; leave out --workers {request.workers}"
        )
    if request.resume and not request.help:
        return _resume_only(request, arguments)
    if request.allow_changed and not (request.help or request.extend):
        flag = next(argument.typed for argument in arguments if argument.name.startswith("allow-changed"))
        raise OptionError(f"{flag} goes with --resume or --extend: a new run uses the installed plugins")
    if request.help and not request.names and request.spec is None:
        _print_short_help()
    trust = request.trust_local_code
    if request.extend is not None:
        spec = _extended_spec(request, request.extend, arguments, file)
    else:
        spec = start or RunSpec(trust_local_code=trust)
        if request.spec is not None:
            spec = read_spec(request.spec, trust)
        spec = with_names(spec, request.names, file)
    with redirect_stdout(sys.stderr):  # standard output is for results, whatever a plugin prints
        loaded = load_components(spec)
    spec = _respelled(completed(spec, loaded), loaded)
    defaults: dict[str, Any] = {}
    for slot, (_, cls) in loaded.items():
        with recorded_version_named(spec, slot):
            defaults[slot] = structure(cls.Config, _options(spec, slot), _owner(spec, slot), spec.recorded)
    defaults |= structured_tables(spec, *loaded["env"])
    configs = {slot: type(config) for slot, config in defaults.items()}
    spellings = make_spellings(configs)
    arguments = spellings.present(arguments)
    arguments = [argument for argument in arguments if argument.name != TRUST_SPEC]
    parsed, unknown = _second_stage(arguments, spec, defaults, _long_description(spec, loaded))
    if unknown:
        raise _unknown(unknown[0], configs, spec)
    changed = _set_options(arguments, spellings, parsed)
    if parsed.tasks and request.extend is None:
        raise OptionError(f"--tasks goes with --extend. See {PROGRAM} --help")
    if request.extend is not None:
        _check_fixed(spec, changed)
    for slot in loaded:
        _check_imports(spec, slot, getattr(parsed, slot), changed.get(slot, {}), file)
    spec, resolved = _combined(spec, loaded, parsed, changed)
    return Arguments(
        spec,
        resolved,
        parsed.out,
        parsed.resume,
        request.extend,
        parsed.tasks,
        parsed.dry_run,
        parsed.quiet,
        parsed.save_every,
        parsed.workers,
        allow_changed=request.allow_changed,
        trust_local_code=trust,
        keep=parsed.keep,
    )


def _first_stage(arguments: Sequence[Argument]) -> _Request:
    values: dict[str, str] = {}
    for argument in arguments:
        if argument.name in (*DEFAULTS, "spec", "resume", "extend", "save-every", "workers"):
            if not argument.values:
                raise OptionError(f"{argument.typed} needs a value. See {PROGRAM} --help")
            values[argument.name] = argument.values[0]
    typed = {argument.name for argument in arguments}
    return _Request(
        names={slot: values[slot] for slot in DEFAULTS if slot in values},
        spec=Path(values["spec"]) if "spec" in values else None,
        resume=Path(values["resume"]) if "resume" in values else None,
        extend=Path(values["extend"]) if "extend" in values else None,
        save_every=values.get("save-every"),
        workers=values.get("workers"),
        quiet="quiet" in typed,
        allow_changed=_allowed(arguments),
        trust_local_code="trust-local-code" in typed or ("spec" if TRUST_SPEC in typed else False),
        help=bool({"help", "-h"} & typed),
    )


def _allowed(arguments: Sequence[Argument]) -> tuple[str, ...]:
    """The values of ``--allow-changed``, separated by spaces or commas,
    ``--allow-changed-plugins`` and
    ``--allow-changed-data``."""
    names: list[str] = []
    for argument in arguments:
        if argument.name == "allow-changed":
            names += [name for value in argument.values for name in value.split(",")]
            if not names:
                raise OptionError(f"{argument.typed} needs a value: spec, data, or plugins")
        elif argument.name in ("allow-changed-plugins", "allow-changed-data"):
            names.append(argument.name.rpartition("-")[2])
    return tuple(names)


def _resume_only(request: _Request, arguments: Sequence[Argument]) -> Arguments:
    """``--resume`` takes everything else from the run."""
    assert request.resume is not None
    spec = request.resume / "run.json"
    for argument in arguments:
        if argument.typed and argument.name not in RESUMABLE:
            raise OptionError(
                f"--resume continues a run with its own options, so {argument.typed} cannot be set; "
                f"to change it, start a new run: {PROGRAM} --spec {spec} {argument.typed} …"
            )
    return Arguments(
        RunSpec(),
        None,
        resume=request.resume,
        quiet=request.quiet,
        save_every=request.save_every,
        workers=request.workers,
        allow_changed=request.allow_changed,
        trust_local_code=request.trust_local_code,
    )


def _extended_spec(request: _Request, run: Path, arguments: Sequence[Argument], file: str) -> RunSpec:
    """The spec of a run with the env whose tasks are added to it; options of the env have their defaults.

    Raises:
        OptionError: the folder holds no run, no env is named, or another component or seed is.
    """
    path = run / "run.json"
    if not path.is_file():
        raise OptionError(f"{run} holds no run (it has no run.json)")
    spec = read_spec(path, request.trust_local_code)
    for slot, name in request.names.items():
        if slot in FIXED and not _is_chosen(slot, name, spec):
            chosen = spec.component(slot)
            own = f"{slot} '{chosen.name.rpartition('/')[2]}'" if chosen is not None else f"no {slot}"
            raise OptionError(f"an extension continues its run, which has {own}; leave out --{slot} {name}")
    for argument in arguments:
        if argument.name in ("seed", "spec", "scenario"):
            raise OptionError(
                f"an extension has the seed, the scenario and the spec of its run; leave out {argument.typed}"
            )
    if "env" not in request.names:
        raise OptionError(
            f"name the env whose tasks are added to the run, such as {PROGRAM} --extend {run} --env digits"
        )
    return with_env(spec, Choice(request.names["env"], file=file), {})


def _check_fixed(spec: RunSpec, changed: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that an extension sets no option of a component that it has from its run.

    Raises:
        OptionError: it does.
    """
    for slot in FIXED:
        if slot in changed:
            option = next(iter(flatten(changed[slot]))).replace("_", "-")
            raise OptionError(
                f"an extension continues {_owner(spec, slot)} of its run with the run's options; leave out "
                f"--{slot}.{option}"
            )


def with_names(spec: RunSpec, names: Mapping[str, str], file: str = "") -> RunSpec:
    """A spec with other components, by slot, as a command line names them.

    A replaced component loses its options; components that a new learner does not use are left out.

    Args:
        spec: the spec.
        names: names of components by slot.
        file: the file that gives the names; empty for words that the user typed.

    Raises:
        PluginError: see `registry`.
    """
    changed: dict[str, Choice] = {}
    kept: dict[str, Choice] = {}
    for slot, name in names.items():
        chosen = spec.component(slot)
        if chosen is None or not _is_chosen(slot, name, spec):
            changed[slot] = Choice(name, file=file)
        elif not file:
            kept[slot] = attrs.evolve(chosen, name_typed=True)
    combined = spec.with_components({**changed, **kept})
    if changed:  # another run, which has other bytes under any conditions
        combined = attrs.evolve(combined, conditions=None)
    if "env" in changed:
        combined = attrs.evolve(combined, data=None)
    if "learner" not in changed:
        return combined
    unused = [
        slot for slot in ("base", "side", "merger") if slot not in names and slot not in usable(combined)
    ]
    return combined.with_components(dict.fromkeys(unused))


def _is_chosen(slot: str, name: str, spec: RunSpec) -> bool:
    """Whether a spec already has this component, by its short or its qualified name."""
    chosen = spec.component(slot)
    if chosen is None or chosen.name == name:
        return chosen is not None
    if AUTO in (name, chosen.name):
        return False
    if ":" in name or ":" in chosen.name:  # code is its only name
        return False
    requested = registry.find(kind(slot), name)
    try:
        return requested == registry.find(kind(slot), chosen.name, spec.recorded)
    except PluginError:  # the spec's is not installed, which does not matter if it is replaced
        return False


def _respelled(spec: RunSpec, loaded: Mapping[str, Loaded]) -> RunSpec:
    """The spec with all options under their present names."""
    choices: dict[str, Choice | None] = {}
    for slot, (_, cls) in loaded.items():
        chosen = spec.component(slot)
        if chosen is not None:
            options = respell(cls.Config, chosen.options, _owner(spec, slot), spec.recorded)
            choices[slot] = attrs.evolve(chosen, options=options)
    return spec.with_components(choices)


def _check_imports(spec: RunSpec, slot: str, config: Any, changed: Mapping[str, Any], file: str) -> None:
    """Check that no file gives an option of a component that names code.

    Raises:
        UntrustedCode: one does.
    """
    chosen = spec.component(slot)
    typed = {name.replace("_", "-") for name in flatten(changed)}
    if file:
        chosen, typed = (
            Choice(_shown_name(spec, slot), merged(_options(spec, slot), changed), file=file),
            set(),
        )
    check_imports(config, chosen, _owner(spec, slot), typed)


def _set_options(
    arguments: Sequence[Argument], spellings: Spellings, parsed: Any
) -> dict[str, dict[str, Any]]:
    """The values of the options that the command line sets, by slot and name, nested."""
    values: dict[str, Any] = {}
    for argument in arguments:
        option = spellings.option_of(argument)
        if option is not None:
            path = option.replace("-", "_")
            value = parsed
            for attribute in path.split("."):
                value = getattr(value, attribute)
            values[path] = value
    return unflatten(values)


def _combined(
    spec: RunSpec, loaded: Mapping[str, Loaded], parsed: Any, changed: Mapping[str, dict[str, Any]]
) -> tuple[RunSpec, ResolvedRun]:
    """The spec with the options of the command line, and the run that it resolves to."""
    choices: dict[str, Any] = {}
    open_side = is_open(spec) and "side" in loaded and "side" not in changed
    for slot in loaded:
        chosen = spec.component(slot)
        if chosen is None or (slot == "side" and chosen.name == AUTO):
            chosen = Choice(DEFAULTS[slot])
        choices[slot] = attrs.evolve(chosen, options=merged(chosen.options, changed.get(slot, {})))
    tables: dict[str, Any] = {table: merged(getattr(spec, table), changed.get(table, {})) for table in TABLES}
    components = {
        slot: ResolvedComponent(plugin, cls, getattr(parsed, slot)) for slot, (plugin, cls) in loaded.items()
    }
    train: TrainOptions = parsed.train
    set_here = changed.get("train", {})
    if "steps" in set_here and "epochs" not in set_here:
        tables["train"]["epochs"] = None
        train = attrs.evolve(train, epochs=None)
    same_run = (parsed.seed, parsed.scenario) == (spec.seed, spec.scenario)
    is_same = changed.keys() <= {"cache", "device"} and same_run
    conditions = spec.conditions if is_same else None
    data = spec.data if "env" not in changed else None
    spec = attrs.evolve(
        spec,
        **choices,
        **tables,
        seed=parsed.seed,
        scenario=parsed.scenario,
        conditions=conditions,
        data=data,
    )
    check_scenario(loaded["learner"][0].name, loaded["learner"][1], spec.scenario)
    fitted_components, unfitted = fitted(components, spec)
    return spec, ResolvedRun(
        fitted_components,
        train,
        parsed.seed,
        parsed.cache,
        parsed.device,
        requested=spec,
        open_side=open_side,
        unfitted=unfitted,
        scenario=spec.scenario,
    )


def _second_stage(
    arguments: Sequence[Argument], spec: RunSpec, defaults: Mapping[str, Any], description: str
) -> tuple[Any, list[str]]:
    """General options, then one group for each component and each option table; and the words left over."""
    if all(map(_is_plain, arguments)):
        return _plain_values(arguments, spec, defaults), []
    import tyro

    fields: dict[str, Any] = {}
    for known in KINDS:
        used = known.name in defaults or not set(defaults) & set(DEFAULTS)
        name = _shown_name(spec, known.name) if used else None
        hint: Any = Annotated[str | None, tyro.conf.arg(name=known.name, help=known.summary, metavar="NAME")]
        fields[f"{known.name}_name"] = attrs.field(type=hint, default=name)
    for name, (annotation, default, help) in _GENERAL.items():
        hint = Annotated[annotation, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=help)]
        fields[name] = attrs.field(type=hint, default=getattr(spec, name) if name in OF_SPEC else default)
    for slot, config in defaults.items():
        fields[slot] = attrs.field(type=type(config), default=config)
    options: type[Any] = attrs.make_class("Options", fields, kw_only=True)
    owners: dict[type[Any], str] = {}
    for slot, config in defaults.items():
        owners |= _owners(type(config), _owner(spec, slot))
    with colours_allowed():  # of its help
        parsed, unknown = tyro.cli(
            options,
            prog=PROGRAM,
            description=description,
            args=[word for argument in arguments for word in argument.words],
            return_unknown_args=True,
            registry=_tyro_rules(owners),
        )
    return parsed, unknown


def _is_plain(argument: Argument) -> bool:
    """Whether the value of an argument is the word that was typed, so that nothing has to be converted."""
    if argument.name == "quiet":
        return not argument.values
    is_word = argument.name in DEFAULTS or argument.name in ("spec", "out")
    return is_word and len(argument.values) == 1 and not argument.values[0].startswith("-")


def _plain_values(arguments: Sequence[Argument], spec: RunSpec, defaults: Mapping[str, Any]) -> Any:
    """What tyro makes of such arguments; its import, and its groups for all options of a run, take 0.2 s."""
    values = {name: default for name, (_, default, _) in _GENERAL.items()}
    values |= {name: getattr(spec, name) for name in OF_SPEC} | dict(defaults)
    for argument in arguments:
        if argument.name == "quiet":
            values["quiet"] = True
        elif argument.name in ("spec", "out"):
            values[argument.name] = Path(argument.values[0])
    return SimpleNamespace(**values)


def _owners(config: type[Any], owner: str) -> dict[type[Any], str]:
    """The owner of the options of a ``Config`` class and of those nested in it."""
    owners = {config: owner}
    for name, hint in typing.get_type_hints(config).items():
        if is_nested(hint):
            owners |= _owners(hint, f"{owner}: {name.replace('_', '-')}")
    return owners


def _tyro_rules(owners: Mapping[type[Any], str]) -> Any:
    """Rules for tyro: help texts from `option`, and errors about values with the owner of the option."""
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    rules = ConstructorRegistry()

    @rules.struct_rule
    def attrs_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and attrs.has(info.type)):
            return None
        hints = typing.get_type_hints(info.type, include_extras=True)
        config = info.type

        def instantiate(**values: Any) -> Any:
            try:
                return config(**values)
            except ValueError as error:
                raise OptionError(f"{owners.get(config, PROGRAM)}: {error}") from error

        is_default = isinstance(info.default, info.type)
        return StructConstructorSpec(
            instantiate=instantiate,
            fields=tuple(
                StructFieldSpec(
                    name=field.name,
                    type=hints.get(field.name, field.type),
                    default=getattr(info.default, field.name) if is_default else field.default,
                    helptext=field.metadata.get("help"),
                )
                for field in attrs.fields(info.type)
            ),
        )

    return rules


def _owner(spec: RunSpec, slot: str) -> str:
    """The owner of the options of a slot, for messages: ``learner 'ewc'``."""
    return f"--{slot}" if slot in TABLES else f"{slot} '{_shown_name(spec, slot)}'"


def _unknown(word: str, configs: Mapping[str, type[Any]], spec: RunSpec) -> OptionError:
    """The error for an argument that does not exist."""
    typed = word.partition("=")[0]
    slot, dot, option = typed.removeprefix("--").partition(".")
    tables = {f"{table}.{info.name}": None for table in TABLES for info in describe(TABLES[table])}
    if dot and slot in configs:
        parted = {former.partition(".")[::2]: f"--{present}" for former, present in MOVED_OPTIONS.items()}
        moved = {name: present for (table, name), present in parted.items() if table == slot}
        return unknown_option(_owner(spec, slot), option, configs[slot], moved)
    if dot and slot in DEFAULTS:
        return OptionError(f"learner '{_shown_name(spec, 'learner')}' uses no {slot}; leave out {typed}")
    if word.lower() in ("true", "false"):
        return OptionError(
            f"{PROGRAM} does not know '{word}': a switch takes no value, "
            "it is --learner.norm or --learner.no-norm"
        )
    known = [f"--{name}".replace("_", "-") for name in (*DEFAULTS, *_GENERAL)]
    last = {f"--{name.partition('.')[2]}": f"--{name}" for name in tables} | {"--device": "--device.name"}
    hint = f" Did you mean '{last[typed]}'?" if typed in last else suggest(typed, known)
    return OptionError(f"{PROGRAM} does not know '{word}'.{hint} See {PROGRAM} --help")


def _options(spec: RunSpec, slot: str) -> dict[str, Any]:
    chosen = spec.component(slot)
    return dict(chosen.options) if chosen else {}


def _shown_name(spec: RunSpec, slot: str) -> str:
    """As it was typed; the short name of a default."""
    chosen = spec.component(slot)
    return chosen.name if chosen else default_name(slot)


def _print_short_help() -> None:
    """General help with names from metadata; no plugin is imported. Exits."""
    lines = ["Train a base, a side and a merger on a stream of tasks, and write the run folder.", ""]
    for known in KINDS:
        names = [plugin.name for plugin in registry.installed(known)]
        lines += [f"{known.plural}: {', '.join(names)}", ""]
    lines += [f"For the options of a component, name it: {PROGRAM} --learner finetune --env icifar --help"]
    tables = {table: config() for table, config in TABLES.items()}
    _second_stage([Argument("--help")], RunSpec(), tables, "\n".join(lines))


def _long_description(spec: RunSpec, loaded: Mapping[str, Loaded]) -> str:
    chosen = ", ".join(f"{slot} {_shown_name(spec, slot)}" for slot in loaded)
    return f"Train on a stream of tasks, and write the run folder. Components: {chosen}"
