"""A spec from a file, from plain values, or from the record of a run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.config.choice import choice
from sidetune_core.config.data_record import FILE as DATA
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.option_tables import TABLES
from sidetune_core.config.options import describe, structure
from sidetune_core.config.spec import RecordedData, RunSpec, Trust
from sidetune_core.config.yaml_file import read_yaml
from sidetune_core.errors import OptionError, shorten, suggest
from sidetune_core.io.files import read_text
from sidetune_core.scenarios import DEFAULT


def from_values(
    values: Any, source: str, recorded: bool = False, trust_local_code: Trust = False, folder: str = ""
) -> RunSpec:
    """A spec from plain values.

    Args:
        values: a table of components, option tables and seed.
        source: where they come from, for messages.
        recorded: they come from a run folder, so former spellings are accepted without a warning.
        trust_local_code: see `Trust`.
        folder: that relative paths begin in; empty for the current one.

    Raises:
        OptionError: a key is unknown or a value is of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{source}: a spec is a table of {', '.join(DEFAULTS)}, {', '.join(TABLES)}, seed and scenario, "
            f"not {type(values).__name__}"
        )
    slots: dict[str, Any] = {}
    for slot, value in values.items():
        if slot not in DEFAULTS:
            continue
        if value is not None and not isinstance(value, str | Mapping):
            raise OptionError(f"{source}: {slot} is a name or a table with a name and options, not {value!r}")
        chosen = choice(value)
        if chosen is not None:
            file = "" if trust_local_code else source
            chosen = attrs.evolve(chosen, file=file, recorded=recorded, folder=folder)
        slots[slot] = chosen
    others = {key: value for key, value in values.items() if key not in DEFAULTS}
    _check_keys(values, source)
    rest = structure(_Rest, others, source)
    return RunSpec(
        **slots,
        train=rest.train,
        cache=rest.cache,
        device=rest.device,
        seed=rest.seed,
        scenario=rest.scenario,
        recorded=recorded,
        trust_local_code=trust_local_code,
    )


def _check_keys(values: Mapping[str, Any], source: str) -> None:
    """Check the keys of a spec, all of them in one message.

    Raises:
        OptionError: one is unknown.
    """
    known = [*DEFAULTS, *(field.name for field in attrs.fields(_Rest))]
    wrong = [str(key) for key in values if key not in known]
    if not wrong:
        return
    options = {info.name: f"{table}.{info.name}" for table in TABLES for info in describe(TABLES[table])}
    answers = []
    for key in wrong:
        table = options.get(key.replace("_", "-"))
        hint = f" Did you mean '{table}'?" if table else suggest(key, known)
        answers.append(f"'{key}'" + (f" ({hint.strip()})" if hint else ""))
    number = "has an unknown key" if len(wrong) == 1 else f"has {len(wrong)} unknown keys"
    raise OptionError(f"{source} {number}: {shorten(answers, 5)}. The keys of a spec: {', '.join(known)}")


def read_spec(path: Path, trust_local_code: Trust = False) -> RunSpec:
    """A spec from a ``.toml``, ``.json`` or ``.yaml`` file, or the resolved spec of a ``run.json``.

    Code that it names is not imported later, unless `trust_local_code`: see `Trust`.

    Raises:
        OptionError: the file is missing, damaged, or holds something else.
    """
    values = read_values(path)
    if isinstance(values, Mapping) and "resolved" in values:
        return recorded_spec(values, str(path), trust_local_code)
    folder = str(path.parent) if path.parent != Path() else ""
    return from_values(values, str(path), trust_local_code=trust_local_code, folder=folder)


def recorded_spec(about: Mapping[str, Any], source: str, trust_local_code: Trust = False) -> RunSpec:
    """The resolved spec of a run, with the plugins that it was made with last; `about` is its ``run.json``.

    Raises:
        OptionError: see `from_values`.
    """
    from sidetune_core.config.plugin_record import read_segments  # imports the registry

    spec = from_values(about.get("resolved"), source, True, trust_local_code)
    segments = read_segments(about)
    latest = attrs.evolve(segments[-1], threads=segments[0].threads)
    changes = {(one.task, one.step): one.threads for one in segments[1:] if one.threads}
    data = None
    if spec.env is not None:
        file = Path(source).with_name(DATA)
        data = RecordedData(spec.env.name, spec.seed, latest.data or str(about.get("data", "")), file)
    return attrs.evolve(
        spec,
        plugins=latest.plugins,
        conditions=latest,
        thread_changes=changes,
        added=_added(about),
        begun_in=str(about.get("folder", "")),
        data=data,
    )


def _added(about: Mapping[str, Any]) -> tuple[str, ...]:
    extensions = about.get("extensions")
    added = (one.get("tasks") for one in (extensions if isinstance(extensions, list) else ()))
    return tuple(str(id) for tasks in added if isinstance(tasks, Mapping) for id in tasks)


def read_values(path: Path) -> Any:
    """The content of a ``.toml`` or ``.json`` file, or of a ``.yaml`` file where PyYAML is installed.

    Raises:
        OptionError: the file is missing or damaged.
    """
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    try:
        text = read_text(path)
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read the spec {path}: {error}") from error


@attrs.frozen
class _Rest:
    train: dict[str, Any] = attrs.field(factory=dict)
    cache: dict[str, Any] = attrs.field(factory=dict)
    device: dict[str, Any] = attrs.field(factory=dict)
    seed: int = 0
    scenario: str = DEFAULT
