"""What others may read of a run's spec: its components and options, without the user's folders and files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.assembly.make import without_weights
from sidetune_core.assembly.restore import run_precisions
from sidetune_core.config.differences import flatten
from sidetune_core.config.extensions import read_extensions, resolved_extension
from sidetune_core.config.options import flat_options, unstructure
from sidetune_core.config.resolve import ResolvedComponent, ResolvedRun, resolve
from sidetune_core.config.spec_file import recorded_spec
from sidetune_core.errors import RunError

PATH_STARTS = ("/", "~", "./", "../", "\\\\")
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

PLACEHOLDER = "PATH"
"""In a command, where the user had a path."""


def is_path(value: object) -> bool:
    """Whether the value of an option is a path, or has one in it."""
    if isinstance(value, list | tuple):
        return any(map(is_path, value))
    if isinstance(value, str):
        is_written_so = value.startswith(PATH_STARTS) or value[1:3] == ":\\" or value.endswith(WEIGHT_FILES)
        return is_written_so or ("/" in value and Path(value).exists())
    return isinstance(value, Path)


def without_paths(config: Any) -> Any:
    """The ``Config`` of a component with the default in each option that is a path."""
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if attrs.has(type(value)):
            changes[field.name] = without_paths(value)
        elif is_path(value):
            changes[field.name] = _default(field)
    return attrs.evolve(config, **changes)


def _default(field: attrs.Attribute[Any]) -> Any:
    """The default of an option."""
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def kept_paths(resolved: ResolvedRun) -> list[str]:
    """The options of networks and learner that are paths: ``base.model``."""
    return [
        f"{slot}.{field.name.replace('_', '-')}"
        for slot, component in resolved.components.items()
        if slot != "env"
        for field in attrs.fields(type(component.config))
        if is_path(getattr(component.config, field.name)) and is_path_needed(slot, field.name)
    ]


def is_path_needed(slot: str, name: str) -> bool:
    """Whether an option may decide on more than initial weights."""
    return not (slot in ("base", "side") and name == "weights")


def check_paths(resolved: ResolvedRun, source: Path) -> None:
    """Check that a spec from elsewhere names no file of this computer. Defaults of options are paths that
    the installed component names, as of the folder where an env keeps its data.

    Raises:
        RunError: an option of a component is another path than its default.
    """
    for slot, component in resolved.components.items():
        for name, value in _given_paths(component.config):
            raise RunError(
                f"{source} names the path {value} in option {slot}.{name}, and no file outside of an "
                "adapter's folder is read. Python: pass trust_local_code=True"
            )


def _given_paths(config: Any) -> Iterator[tuple[str, object]]:
    """Options that are paths, and not their defaults, with their values."""
    for field in attrs.fields(type(config)):
        value, option = getattr(config, field.name), field.name.replace("_", "-")
        if attrs.has(type(value)):
            yield from ((f"{option}.{name}", own) for name, own in _given_paths(value))
        elif value != _default(field):
            is_file = field.name == "weights" and Path(str(value)).is_file()
            if is_path(value) or is_file:
                yield option, value


def public_spec(resolved: ResolvedRun, keep_paths: bool = False) -> dict[str, Any]:
    """The spec that an adapter carries, in plain values: all that its networks are built from. Of the env
    there is the name only, of training nothing.

    Args:
        resolved: of the run.
        keep_paths: keep paths that decide on more than initial weights, as of a folder with a model's
            configuration.
    """
    components = {
        slot: _public(slot, component, keep_paths) for slot, component in resolved.components.items()
    }
    plain = attrs.evolve(resolved, components=components).to_spec().to_json()
    plain["env"]["options"] = {}
    device = {name: value for name, value in plain["device"].items() if name != "name"}
    return {**plain, "train": {}, "cache": {}, "device": device | _made_with(resolved)}


def _made_with(resolved: ResolvedRun) -> dict[str, str]:
    """The precisions of a run of which the options leave them open; those in bfloat16 stay open, so that
    a computer without units for it computes in float32."""
    precisions = run_precisions(resolved)
    if precisions is None or resolved.device.precision != "auto" or precisions.trained == "bf16":
        return {}
    return {"precision": "fp32", "base_precision": precisions.base}


def resolve_public(
    spec: Mapping[str, Any],
    plugins: Mapping[str, Any],
    versions: Mapping[str, str],
    source: Path,
    trust_local_code: bool = False,
) -> ResolvedRun:
    """The run of a spec that an adapter carries.

    Args:
        spec: see `public_spec`.
        plugins: the components that the run was made with, as in ``run.json``.
        versions: of libraries, likewise.
        source: the file, for messages.
        trust_local_code: import code that the spec names.

    Raises:
        UntrustedCode: it names code, without `trust_local_code`.
        PluginError, OptionError: a component is not installed, or no longer has these options.
    """
    about = {"resolved": spec, "plugins": plugins, "versions": versions}
    return resolve(recorded_spec(about, str(source), trust_local_code))


def command(asked: Mapping[str, Any]) -> str:
    """The command that trains such a run, from its spec as requested; paths are left to the reader."""
    words = ["sidetune-run"]
    for slot, value in asked.items():
        if isinstance(value, Mapping) and "name" in value:
            words += [f"--{slot}", str(value["name"])]
            words += _words(slot, value.get("options") or {})
        elif isinstance(value, Mapping):
            words += _words(slot, value)
        elif value is not None and not (slot == "seed" and value == 0):
            words += [f"--{slot}", str(value)]
    return shlex.join(words)


def extended_command(about: Mapping[str, Any], task: str, source: Path, trust_local_code: bool) -> str:
    """The command that trains a task of a run: `command`, and the extensions up to that of the task.

    Args:
        about: ``run.json``.
        task: id of a task.
        source: the path of ``run.json``, for messages.
        trust_local_code: import code that it names.

    Raises:
        RunError: an extension is damaged.
        UntrustedCode, PluginError, OptionError: the env of an extension cannot be imported.
    """
    asked, resolved = (about.get(name) for name in ("asked", "resolved"))
    commands = [command(asked or resolved or {})]
    extensions = read_extensions(about)
    position = next((i + 1 for i, extension in enumerate(extensions) if task in extension.tasks), 0)
    before = flatten((resolved or {}).get("train") or {})
    for extension in extensions[:position]:
        env = resolved_extension(about, extension, str(source), trust_local_code).components["env"]
        train = {name: value for name, value in flatten(extension.train).items() if value != before.get(name)}
        words = ["sidetune-run", "--extend", "RUN", "--env", str(extension.env["name"])]
        words += _words("env", _given_options(env))
        words += ["--tasks", *extension.tasks.values(), *_words("train", train)]
        commands.append(shlex.join(words))
    return " && ".join([f"{commands[0]} --out RUN", *commands[1:]]) if position else commands[0]


def _given_options(component: ResolvedComponent) -> dict[str, Any]:
    """The options of a component that are not their defaults, in plain values."""
    config = component.cls.Config
    given, defaults = (
        flat_options(config, unstructure(values), component.owner, recorded=True)
        for values in (component.config, config())
    )
    return {name: value for name, value in given.items() if value != defaults[name]}


def _words(prefix: str, options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        option = f"{prefix}.{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _words(option, value)
        elif value is not None:
            yield f"--{option}"
            for entry in value if isinstance(value, list | tuple) else [value]:
                yield PLACEHOLDER if _may_be_path(entry) else str(entry)


def _may_be_path(value: object) -> bool:
    """Whether a value in a command could show where the user keeps files."""
    return is_path(value) or (isinstance(value, str) and Path(value).exists())


def _public(slot: str, component: ResolvedComponent, keep_paths: bool) -> ResolvedComponent:
    if slot == "env":
        return component
    config = component.config
    is_named = slot == "base" and not is_path(getattr(config, "weights", None))
    config = config if is_named else without_weights(component)
    return attrs.evolve(component, config=config if keep_paths else without_paths(config))
