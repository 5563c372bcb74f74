"""``sidetune-run``'s arguments: first the names, then the options that the named parts declare.

Two stages, because the options depend on the names: argparse finds the names and leaves the rest alone; tyro then reads everything
against a class that is composed of the chosen parts' ``Config`` classes.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from sidetune_core.config import registry
from sidetune_core.config.kinds import KINDS, kind
from sidetune_core.config.options import structure, unknown_option
from sidetune_core.config.resolve import completed, load_components, train_values, usable
from sidetune_core.config.spec import DEFAULTS, Choice, RunSpec, TrainOptions, read_spec
from sidetune_core.errors import OptionError, suggest

PROGRAM = "sidetune-run"

_GENERAL: dict[str, tuple[Any, Any, str]] = {
    "spec": (Path | None, None, "begin with this spec: a .toml or .json file, or the run.json of a run"),
    "seed": (int, 0, "seed of everything random"),
    "out": (Path | None, None, "folder of the run, empty or absent; None for a new one below runs/"),
    "resume": (
        Path | None,
        None,
        "go on with the run in this folder, to the same bytes; of all else only --save-every can be set then",
    ),
    "save_every": (
        str | None,
        None,
        "how often to write down where a run is in a task, for --resume: steps (200), seconds (30s), or none for when it is stopped "
        "only; where it is not given, 60s",
    ),
    "dry_run": (bool, False, "show what would be run, and stop"),
    "quiet": (bool, False, "no progress"),
    "debug": (bool, False, "show the traceback of an error"),
}

RESUMABLE = ("--resume", "--save-every", "--save_every", "--quiet", "--debug")
"""What may stand beside ``--resume``."""


@attrs.frozen
class Arguments:
    """What was asked for."""

    spec: RunSpec
    out: Path | None
    resume: Path | None
    dry_run: bool
    quiet: bool
    save_every: str | None


def parse(argv: Sequence[str]) -> Arguments:
    """Read the arguments of ``sidetune-run``; prints help and exits where that is asked for.

    Raises:
        SidetuneError: a part or an option does not exist, or does not fit.
    """
    names = _names(argv)
    if names.resume and not names.help:
        return _resume_only(names, argv)
    if names.help and not _names_anything(names):
        _print_short_help()
    named = {slot: getattr(names, slot) for slot in DEFAULTS if getattr(names, slot) is not None}
    spec = with_names(read_spec(names.spec) if names.spec else RunSpec(), named)
    classes = {slot: cls for slot, (_, cls) in load_components(spec).items()}
    spec = completed(spec, classes)
    defaults = {
        slot: structure(cls.Config, _options(spec, slot), _owner(spec, slot)) for slot, cls in classes.items()
    }
    defaults["train"] = structure(TrainOptions, train_values(spec, classes["env"]), "--train")
    parsed, unknown = _read(argv, spec, defaults, _long_description(spec, classes))
    if unknown:
        raise _unknown(unknown[0], {slot: type(config) for slot, config in defaults.items()}, spec)
    asked: dict[str, Any] = {}
    for slot in classes:
        asked[slot] = Choice(
            _name(spec, slot), {**_options(spec, slot), **_given(argv, slot, getattr(parsed, slot))}
        )
    changed = _given(argv, "train", parsed.train)
    if "steps" in changed and "epochs" not in changed:
        changed["epochs"] = None
    spec = attrs.evolve(spec.with_components(asked), train={**spec.train, **changed}, seed=parsed.seed)
    return Arguments(spec, parsed.out, parsed.resume, parsed.dry_run, parsed.quiet, parsed.save_every)


def _given(argv: Sequence[str], slot: str, config: Any) -> dict[str, Any]:
    """The options of a slot that the command line sets, a switch as ``--learner.norm`` or ``--learner.no-norm``."""
    there = {word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    names = {field.name: field.name.replace("_", "-") for field in attrs.fields(type(config))}
    return {
        field: getattr(config, field)
        for field, name in names.items()
        if there & {f"--{slot}.{name}", f"--{slot}.no-{name}"}
    }


def _names(argv: Sequence[str]) -> argparse.Namespace:
    """The first stage."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    for slot in DEFAULTS:
        parser.add_argument(f"--{slot}")
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--save-every", "--save_every")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    return parser.parse_known_args(argv)[0]


def _resume_only(names: argparse.Namespace, argv: Sequence[str]) -> Arguments:
    """``--resume`` takes everything from the run itself."""
    others = [word for word in argv if word.startswith("--") and word.split("=")[0] not in RESUMABLE]
    if others:
        raise OptionError(
            f"--resume goes on with a run as it was begun, so {others[0]} cannot be set; "
            f"to change it, begin a new run: {PROGRAM} --spec {names.resume / 'run.json'} {others[0]} …"
        )
    return Arguments(RunSpec(), None, names.resume, False, names.quiet, names.save_every)


def _names_anything(names: argparse.Namespace) -> bool:
    return any(getattr(names, slot) for slot in (*DEFAULTS, "spec"))


def with_names(spec: RunSpec, named: Mapping[str, str]) -> RunSpec:
    """Names by slot, as a command line gives them, over those of a spec.

    A part that changes loses the options of the one before; a part that a new learner has no use for is left out.

    Raises:
        PluginError: see `registry`.
    """
    changed = {slot: Choice(name) for slot, name in named.items() if not _same(slot, name, spec)}
    merged = spec.with_components(changed)
    if "learner" not in changed:
        return merged
    leftover = [
        slot for slot in ("base", "side", "merger") if slot not in named and slot not in usable(merged)
    ]
    return merged.with_components(dict.fromkeys(leftover))


def _same(slot: str, name: str, spec: RunSpec) -> bool:
    """Whether a spec has this very part already, under whatever name."""
    asked = spec.component(slot)
    return asked is not None and registry.find(kind(slot), name) == registry.find(kind(slot), asked.name)


def _read(
    argv: Sequence[str], spec: RunSpec, defaults: dict[str, Any], description: str
) -> tuple[Any, list[str]]:
    """The second stage: general options, then one group for each chosen part and one for training."""
    fields: dict[str, Any] = {}
    for one in KINDS:
        name = (
            _name(spec, one.name) if one.name in defaults or len(defaults) == 1 else None
        )  # alone are the training options
        about: Any = Annotated[str | None, tyro.conf.arg(name=one.name, help=one.summary, metavar="NAME")]
        fields[f"{one.name}_name"] = attrs.field(type=about, default=name)
    for name, (annotation, default, help) in _GENERAL.items():
        if name == "seed":
            default = spec.seed
        about = Annotated[annotation, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=help)]
        fields[name] = attrs.field(type=about, default=default)
    for slot, config in defaults.items():
        fields[slot] = attrs.field(type=type(config), default=config)
    composed: type[Any] = attrs.make_class("Options", fields, kw_only=True)
    rules = _rules({type(config): _owner(spec, slot) for slot, config in defaults.items()})
    parsed, unknown = tyro.cli(
        composed,
        prog=PROGRAM,
        description=description,
        args=list(argv),
        return_unknown_args=True,
        registry=rules,
    )
    return parsed, unknown


def _owner(spec: RunSpec, slot: str) -> str:
    """Who has the options of a slot, for messages: ``learner 'ewc'``."""
    return "--train" if slot == "train" else f"{slot} '{_name(spec, slot)}'"


def _rules(owners: Mapping[type[Any], str]) -> ConstructorRegistry:
    """Let tyro take help texts from where `option` puts them, and say in our words what is out of range."""
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

        return StructConstructorSpec(
            instantiate=instantiate,
            fields=tuple(
                StructFieldSpec(
                    name=field.name,
                    type=hints.get(field.name, field.type),
                    default=getattr(info.default, field.name)
                    if isinstance(info.default, info.type)
                    else field.default,
                    helptext=field.metadata.get("help"),
                )
                for field in attrs.fields(info.type)
            ),
        )

    return rules


def _unknown(word: str, configs: dict[str, type[Any]], spec: RunSpec) -> OptionError:
    """The error for an argument that nobody takes."""
    name = word.split("=")[0]
    slot, dot, option = name.removeprefix("--").partition(".")
    if dot and slot in configs:
        return unknown_option(
            _owner(spec, slot), option, {field.name for field in attrs.fields(configs[slot])}
        )
    if dot and slot in DEFAULTS:
        return OptionError(f"learner '{_name(spec, 'learner')}' uses no {slot}; leave out {name}")
    if word.lower() in ("true", "false"):
        return OptionError(
            f"{PROGRAM} does not know '{word}': a switch takes no value, it is --learner.norm or --learner.no-norm"
        )
    known = [f"--{one}".replace("_", "-") for one in (*DEFAULTS, *_GENERAL)]
    return OptionError(f"{PROGRAM} does not know '{word}'.{suggest(name, known)} See {PROGRAM} --help")


def _options(spec: RunSpec, slot: str) -> dict[str, Any]:
    asked = spec.component(slot)
    return dict(asked.options) if asked else {}


def _name(spec: RunSpec, slot: str) -> str:
    asked = spec.component(slot)
    return asked.name if asked else DEFAULTS[slot]


def _print_short_help() -> None:
    """General help: names from metadata, no plugin imported. Exits."""
    lines = ["Compose a run from registered parts, and run it.", ""]
    for one in KINDS:
        lines += [f"{one.plural}: {', '.join(plugin.name for plugin in registry.installed(one))}", ""]
    lines += [
        "Name a part and ask again for its options: sidetune-run --learner finetune --env icifar --help"
    ]
    _read(["--help"], RunSpec(), {"train": TrainOptions()}, "\n".join(lines))


def _long_description(spec: RunSpec, classes: dict[str, Any]) -> str:
    return "Compose a run from registered parts, and run it. Chosen: " + ", ".join(
        f"{slot} {_name(spec, slot)}" for slot in classes
    )
