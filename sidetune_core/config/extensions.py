"""Extensions of a run: tasks of another env that were added after the run had finished.

``extensions`` of ``run.json`` has a record of each, in order; ``resolved`` stays the spec that the run began
with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.choice import Choice
from sidetune_core.config.history import EXTENSIONS
from sidetune_core.config.identity import as_plain, spec_changes
from sidetune_core.config.option_tables import respell_tables
from sidetune_core.config.plugin_record import PluginRecord, read_plugins
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import RunSpec, Trust
from sidetune_core.config.spec_file import recorded_spec
from sidetune_core.errors import OptionError, RunError

NUMBERED = re.compile(r"t(\d+)")
"""Ids that count on when their tasks are added to a run."""


@attrs.frozen
class Extension:
    """Tasks of an env that were added to a finished run."""

    first: int
    """Number of tasks that the run had before."""
    env: Mapping[str, Any]
    """Name and options of the env, as in a resolved spec."""
    train: Mapping[str, Any]
    tasks: Mapping[str, str]
    """The id in the env of each added task, by its id in the run, in order."""
    data: str = ""
    """The fingerprint of the env's data; empty if unknown."""
    plugin: PluginRecord | None = None
    """The env."""
    cache: Mapping[str, Any] = attrs.field(factory=dict)
    device: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """The short name of the env."""
        return str(self.env.get("name", "")).rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        values = attrs.asdict(self, recurse=False)
        values["plugin"] = self.plugin.to_json() if self.plugin is not None else None
        return as_plain(values)


def read_extensions(about: Mapping[str, Any]) -> list[Extension]:
    """The extensions of a run, in order; `about` is its ``run.json``.

    Raises:
        RunError: one is damaged.
    """
    records, count = about.get(EXTENSIONS, []), len(about.get("tasks", ()))
    try:
        extensions = [_read(record) for record in records]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"run.json is damaged: its {EXTENSIONS} cannot be read ({error!r})") from error
    ends = [*(extension.first for extension in extensions[1:]), count]
    ids = [task.get("id") for task in about.get("tasks", ())]
    for extension, end in zip(extensions, ends, strict=False):
        if not 0 < extension.first < end or list(extension.tasks) != ids[extension.first : end]:
            raise RunError(f"run.json is damaged: its {EXTENSIONS} are not those of its tasks")
    return extensions


def resolved_extension(
    about: Mapping[str, Any], extension: Extension, source: str, trust_local_code: Trust = False
) -> ResolvedRun:
    """The run with the env and the options of an extension; the other components are those of the run.

    Args:
        about: ``run.json``.
        extension: one of its extensions.
        source: the path of ``run.json``, for messages.
        trust_local_code: see `Trust`.

    Raises:
        UntrustedCode: the file names code to import, without `trust_local_code`.
        PluginError, OptionError: a component is not installed, or no longer has these options.
    """
    spec = recorded_spec(about, source, trust_local_code)
    env = Choice(
        str(extension.env["name"]),
        dict(extension.env.get("options", {})),
        file="" if trust_local_code else source,
        recorded=True,
    )
    plugins = {slot: record for slot, record in spec.plugins.items() if slot != "env"}
    if extension.plugin is not None:
        plugins["env"] = extension.plugin
    spec = attrs.evolve(spec, env=env, plugins=plugins, train=dict(extension.train))
    return resolve(attrs.evolve(spec, cache=dict(extension.cache), device=dict(extension.device)))


def with_env(spec: RunSpec, env: Choice, tables: Mapping[str, Mapping[str, Any]]) -> RunSpec:
    """The spec of a run with another env, and with the options that are set in `tables`: 'train', 'cache',
    'device'. All others stay those of the run."""
    merged: dict[str, Any] = {table: {**getattr(spec, table), **values} for table, values in tables.items()}
    train = tables.get("train", {})
    if "steps" in train and "epochs" not in train:
        merged["train"]["epochs"] = None
    plugins = {slot: record for slot, record in spec.plugins.items() if slot != "env"}
    return attrs.evolve(spec, env=env, plugins=plugins, data=None, **merged)


def new_ids(taken: Sequence[str], ids: Sequence[str], ignores_case: bool = False) -> dict[str, str]:
    """Ids of added tasks, by their ids in the env, that no task of the run has.

    ``t0`` becomes the next number, ``cat`` becomes ``cat-2``.

    Args:
        taken: the ids of the run.
        ids: of the tasks to add.
        ignores_case: whether the run folder's disk takes ``A`` and ``a`` for one name.
    """

    def key(id: str) -> str:
        return id.casefold() if ignores_case else id

    used, given = {key(id) for id in taken}, dict[str, str]()
    for id in ids:
        new = id
        if key(id) in used:
            new = _next_number(used) if NUMBERED.fullmatch(id) else _with_suffix(id, used, key)
        given[id] = new
        used.add(key(new))
    return given


def extension_lines(about: Mapping[str, Any]) -> list[str]:
    """A line for each extension: ``from task t3 on, added by --extend: t3 and t4 of env 'images' (t0 and t1
    there)``; `about` is ``run.json``. What is damaged is left out."""
    try:
        extensions = read_extensions(about)
    except RunError:
        return []
    before = _train_options(about.get("resolved"))
    lines = []
    for extension in extensions:
        renamed = list(extension.tasks) != list(extension.tasks.values())
        there = f" ({', '.join(extension.tasks.values())} there)" if renamed else ""
        options = spec_changes({"train": before}, {"train": extension.train})
        others = f", {', '.join(options)}" if options else ""
        lines.append(
            f"from task {next(iter(extension.tasks))} on, added by --extend: {', '.join(extension.tasks)} of "
            f"env '{extension.name}'{there}{others}"
        )
    return lines


def _train_options(resolved: Any) -> Mapping[str, Any]:
    """The options of training in a spec that any version recorded, under their present names."""
    before = resolved.get("train") if isinstance(resolved, Mapping) else None
    if not isinstance(before, Mapping):
        return {}
    try:
        return respell_tables({"train": before}, recorded=True)["train"]
    except OptionError:
        return before


def _read(record: Mapping[str, Any]) -> Extension:
    tasks, env = record["tasks"], record["env"]
    if not tasks or not all(isinstance(id, str) for pair in tasks.items() for id in pair):
        raise ValueError(f"tasks are {tasks!r}")
    if type(record["first"]) is not int or not isinstance(env["name"], str):
        raise TypeError("first, or the name of the env")
    tables = {table: dict(record.get(table, {})) for table in ("train", "cache", "device")}
    plugin = read_plugins({"env": record.get("plugin")}, {}).get("env")
    return Extension(
        record["first"], env, tasks=dict(tasks), data=str(record["data"]), plugin=plugin, **tables
    )


def _next_number(used: set[str]) -> str:
    numbers = (int(found[1]) for id in used if (found := NUMBERED.fullmatch(id)))
    return f"t{max(numbers) + 1}"


def _with_suffix(id: str, used: set[str], key: Any) -> str:
    number = 2
    while key(f"{id}-{number}") in used:
        number += 1
    return f"{id}-{number}"
