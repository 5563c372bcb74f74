"""The files of an adapter: ``adapter.safetensors``, ``task.json``, and for some ``base.safetensors``.

``task.json`` has plain values only, the sizes and hashes of the other files, and a hash of itself. It names
no file by a path, and no file outside the folder is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from sidetune_core.errors import PluginError, RunError
from sidetune_core.hashing import file_digest
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.io import strict_json
from sidetune_core.io.files import read_text
from sidetune_core.serving.base_weights import BASE_FILE, BaseReference
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.file_names import check_file_name
from sidetune_core.storage.nested_state import flatten, tensor_names, unflatten
from sidetune_core.storage.weights import read_tensors, write_tensors

ADAPTER_FILE, TASK_FILE, README = "adapter.safetensors", "task.json", "README.md"
FILES = (ADAPTER_FILE, BASE_FILE, TASK_FILE, README)
"""Everything in an adapter's folder."""

KIND, FORMAT = "sidetune adapter", 1
TASK_STATES = "task_states"
"""Key of the state of tasks, and the beginning of the names of its tensors."""

EXTRA_STATE = "_extra_state"
"""The end of the names that PyTorch gives to what `get_extra_state` of a module returns."""

MAX_CARDS = 4096
"""Tasks of an adapter; each is started to restore its learner."""

SHA256 = re.compile("[0-9a-f]{64}")


@attrs.frozen(eq=False)
class AdapterFiles:
    """The content of an adapter's folder."""

    task: str
    cards: Mapping[str, TaskCard]
    """In the order in which the learner is started on the tasks; the adapter's own is among them."""
    spec: Mapping[str, Any]
    """The resolved spec, without the user's paths."""
    plugins: Mapping[str, Any]
    """The components by slot, as ``run.json`` has them."""
    versions: Mapping[str, str]
    base: BaseReference | None
    """None where the adapter has a whole network."""
    results: Mapping[str, Any]
    """For readers: the metric of the task, the command of the run, its certificate."""
    state: Mapping[str, Any]
    """The state dict without the tensors of the base."""
    task_states: Mapping[str, Any]

    def write(self, folder: Path, base: Mapping[str, Tensor] | None) -> dict[str, int]:
        """Write the files; returns their sizes in bytes. Equal content gives equal bytes.

        Args:
            folder: exists.
            base: the tensors of the base to include; None for none.

        Raises:
            WriteError: the folder is not writable.
            PluginError: the state has a type that cannot be saved.
        """
        tensors = {key: value for key, value in self.state.items() if isinstance(value, Tensor)}
        extra, more = flatten({key: value for key, value in self.state.items() if key not in tensors})
        states, of_tasks = flatten(self.task_states, TASK_STATES)
        contents = {
            ADAPTER_FILE: tensors | more | of_tasks,
            **({BASE_FILE: base} if base is not None else {}),
        }
        with writing(folder):
            for name, content in contents.items():
                write_tensors(folder / name, content, {"kind": KIND})
            if base is None:
                (folder / BASE_FILE).unlink(missing_ok=True)
            files = {name: _file_record(folder / name) for name in contents}
            values = {
                "kind": KIND,
                "format": FORMAT,
                "task": self.task,
                "cards": [card.to_json() for card in self.cards.values()],
                "base": attrs.asdict(self.base) if self.base is not None else None,
                "spec": self.spec,
                "plugins": self.plugins,
                "versions": self.versions,
                "results": self.results,
                "extra": extra,
                TASK_STATES: states,
                "files": files,
            }
            values = json.loads(strict_json.dumps(values, default=str))
            values["sha256"] = content_digest(values)
            write_text(folder / TASK_FILE, strict_json.dumps(values, indent=2) + "\n")
        return {name: record["bytes"] for name, record in files.items()}


def is_adapter(folder: Path) -> bool:
    """Whether a folder is that of an adapter."""
    return (folder / TASK_FILE).is_file() and not (folder / "run.json").exists()


def read_files(folder: Path, links_within: Path | None = None) -> AdapterFiles:
    """Read and check an adapter's folder. Nothing is imported.

    Args:
        folder: of the adapter.
        links_within: a folder; symbolic links to files in it are followed. None: no link is.

    Raises:
        RunError: a file is missing, damaged, altered, of an unknown format, or a link.
        WeightsError: the tensors cannot be read.
    """
    path = _own_file(folder, TASK_FILE, links_within)
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read the adapter {folder}: {TASK_FILE} is damaged ({error})") from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise RunError(f"{path} is not that of a sidetune adapter (kind '{KIND}')")
    if values.get("format") != FORMAT:
        raise RunError(
            f"the adapter {folder} has format {values.get('format')!r}, and this version of sidetune reads "
            f"{FORMAT}; a newer version of sidetune may read it"
        )
    if values.pop("sha256", None) != content_digest(values):
        raise RunError(
            f"{path} was altered or cut after it was exported (its SHA-256 differs from the recorded one)"
        )
    try:
        return _structure(values, folder, links_within)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PluginError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _structure(values: Mapping[str, Any], folder: Path, links_within: Path | None) -> AdapterFiles:
    if len(values["cards"]) > MAX_CARDS:
        raise ValueError(f"it has {len(values['cards']):,} cards of tasks, expected at most {MAX_CARDS:,}")
    cards = [TaskCard.from_json(card) for card in values["cards"]]
    for card in cards:
        check_file_name(card.id, f"{TASK_FILE} has")
    if values["task"] not in [card.id for card in cards]:
        raise ValueError(f"it has no card of task {values['task']!r}")
    base = _reference(values["base"])
    records = values["files"]
    if records.keys() - {ADAPTER_FILE, BASE_FILE} or ADAPTER_FILE not in records:
        raise ValueError(f"it has the files {', '.join(map(repr, records))}")
    for name in records:
        _check_file(_own_file(folder, name, links_within), records[name])
    if BASE_FILE not in records and (folder / BASE_FILE).exists():
        raise ValueError(f"{BASE_FILE} is no file of this adapter")
    tensors = read_tensors(folder / ADAPTER_FILE)
    inner = tensor_names(values["extra"]) | tensor_names(values[TASK_STATES])
    state = {key: value for key, value in tensors.items() if key not in inner}
    extra, task_states = unflatten(values["extra"], tensors), unflatten(values[TASK_STATES], tensors)
    if not all(str(key).endswith(EXTRA_STATE) for key in extra):
        raise ValueError("its extra state is that of no module")
    if not all(isinstance(own, Mapping) for own in task_states.values()):
        raise ValueError("it has states of tasks that are none")
    return AdapterFiles(
        task=values["task"],
        cards={card.id: card for card in cards},
        spec=_table(values, "spec"),
        plugins=_table(values, "plugins"),
        versions=_table(values, "versions"),
        base=base,
        results=_table(values, "results"),
        state=state | dict(extra),
        task_states=task_states,
    )


def _reference(values: Mapping[str, Any] | None) -> BaseReference | None:
    if values is None:
        return None
    modules, tensors = values["modules"], values["tensors"]
    texts = [values["component"], values["digest"], values["weights"], *modules, *tensors, *tensors.values()]
    counts = [values["parameters"], values["bytes"]]
    if not all(isinstance(text, str) for text in texts) or not all(type(count) is int for count in counts):
        raise ValueError("its base is no reference")
    if not SHA256.fullmatch(values["digest"]):
        raise ValueError(f"the digest of its base is {values['digest']!r}")
    return BaseReference(**{**values, "modules": tuple(modules), "tensors": dict(tensors)})


def _own_file(folder: Path, name: str, links_within: Path | None) -> Path:
    """A file of the adapter.

    Raises:
        RunError: it is missing, or a link to somewhere else.
    """
    path = folder / name
    if path.is_symlink() and (
        links_within is None or not path.resolve().is_relative_to(links_within.resolve())
    ):
        raise RunError(f"{path} is a symbolic link, and no file outside of an adapter's folder is read")
    if not path.is_file():
        raise RunError(f"the adapter {folder} has no file {name}")
    return path


def _check_file(path: Path, record: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != record["bytes"]:
        raise RunError(
            f"{path} has {size:,} bytes, and {TASK_FILE} says {record['bytes']:,}: it was cut or replaced; "
            "copy or download it again"
        )
    if file_digest(path) != record["sha256"]:
        raise RunError(f"{path} was altered after it was exported (its SHA-256 differs from {TASK_FILE}'s)")


def _file_record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values[name]
    if not isinstance(table, Mapping):
        raise ValueError(f"its {name} is {table!r}")
    return table


def content_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the values of ``task.json`` without the hash itself."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
