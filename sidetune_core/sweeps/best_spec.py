"""The spec of the best trial of a search, to train on all tasks and all training examples."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidetune_core.config.argv_options import PROGRAM
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.io import strict_json
from sidetune_core.io.printable import one_line
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.run_folder import RunFolder

VAL_FRACTION = "val_fraction"
NAME = "best"


def write_best(out: Path, folder: RunFolder, comment: str) -> Path:
    """Write ``best.toml`` into the folder of a search: the spec as it was asked for, which holds out no
    examples. A spec that sets an option to None becomes ``best.json``: TOML has no such value.

    Args:
        out: folder of the search.
        folder: of the best trial's run.
        comment: its first line.

    Raises:
        RunError: the run is damaged.
        WriteError: the folder cannot be written.
    """
    spec = _all_examples(folder.read_json("run.json")["asked"])
    plain = _without_empty(spec)
    in_toml = not _has_none(plain)
    path = out / f"{NAME}.{'toml' if in_toml else 'json'}"
    with writing(path):
        (out / f"{NAME}.{'json' if in_toml else 'toml'}").unlink(missing_ok=True)
        text = (
            f"# {one_line(comment)}\n{_toml(plain)}" if in_toml else strict_json.dumps(plain, indent=1) + "\n"
        )
        write_text(path, text)
    return path


def commands(path: Path, spec: Mapping[str, Any], trust: bool) -> list[str]:
    """The command lines that train with a spec, once and with three seeds."""
    named = shlex.quote(str(path))
    trusted = " --trust-local-code" if trust or names_code(spec) else ""
    return [
        f"{PROGRAM} --spec {named}{trusted}",
        f"sidetune sweep --spec {named} --seed 0..2 --out {shlex.quote(str(path.parent / 'final'))}{trusted}",
    ]


def names_code(spec: Mapping[str, Any]) -> bool:
    """Whether a component of a spec is the name of code."""
    names = [spec[slot].get("name", "") for slot in DEFAULTS if isinstance(spec.get(slot), Mapping)]
    return any(":" in str(name) for name in names)


def _all_examples(spec: Mapping[str, Any]) -> dict[str, Any]:
    env = dict(spec["env"])
    options = {name: value for name, value in env.get("options", {}).items() if name != VAL_FRACTION}
    return {**spec, "env": {**env, "options": options}}


def _without_empty(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Without slots and tables that say nothing."""
    train = dict(spec.get("train") or {})
    if "steps" in train and train.get("epochs", 0) is None:  # what a spec with steps alone means
        del train["epochs"]
    kept: dict[str, Any] = {}
    for name, value in {**spec, "train": train}.items():
        options = value.get("options") if isinstance(value, Mapping) else None
        plain = {"name": value["name"]} if options == {} else value
        if plain not in (None, {}):
            kept[name] = plain
    return kept


def _has_none(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_none, value.values()))
    if isinstance(value, list):
        return any(map(_has_none, value))
    return value is None


def _toml(table: Mapping[str, Any], prefix: Sequence[str] = ()) -> str:
    """A table of plain values as TOML, tables in it last."""
    plain = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    text = "".join(f"{_key(name)} = {_value(value)}\n" for name, value in plain.items())
    for name, value in table.items():
        if isinstance(value, Mapping):
            path = [*prefix, name]
            text += f"\n[{'.'.join(map(_key, path))}]\n{_toml(value, path)}"
    return text


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
