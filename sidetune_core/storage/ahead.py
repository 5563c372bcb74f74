"""Stages that worker processes train ahead of earlier ones: ``checkpoints/ahead-003.safetensors`` is the
third, until its checkpoint is written.

A file is nested state (see `nested_state`), replaced atomically while the stage is trained. A SHA-256 digest
covers all of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidetune_core.errors import WeightsError
from sidetune_core.hashing import fingerprint
from sidetune_core.storage.atomic import writing
from sidetune_core.storage.nested_state import flatten, unflatten
from sidetune_core.storage.tensor_files import opened
from sidetune_core.storage.unusable import WRONG_CONTENT, Unusable
from sidetune_core.storage.weights import write_tensors


def ahead_path(folder: Path, count: int) -> Path:
    """The file of the stage after which `count` tasks are trained, in the folder of checkpoints."""
    return folder / f"ahead-{count:03d}.safetensors"


def write_ahead(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file.

    Raises:
        WriteError: the folder is not writable; the earlier file stays.
        PluginError: the content has a type that cannot be saved.
    """
    plain, tensors = flatten(content, "ahead")
    text = json.dumps(plain, allow_nan=False)
    with writing(path):
        write_tensors(path, tensors, {"content": text, "sha256": _digest(text, fingerprint(tensors))})


def read_ahead(path: Path) -> Mapping[str, Any]:
    """The content of a file that `write_ahead` wrote.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    with opened(path) as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    try:
        about = json.loads(header["about"])
        if about["sha256"] != _digest(about["content"], fingerprint(tensors)):
            raise ValueError("its SHA-256 differs from the recorded one")
        content: Mapping[str, Any] = unflatten(json.loads(about["content"]), tensors)
    except (*WRONG_CONTENT, WeightsError) as error:
        raise Unusable(path, f"is damaged ({error})") from error
    return content


def delete_ahead(folder: Path, count: int) -> None:
    """Delete the file of a stage, if there is one."""
    path = ahead_path(folder, count)
    with writing(path):
        path.unlink(missing_ok=True)


def _digest(text: str, tensors: str) -> str:
    return hashlib.sha256(f"{text}\n{tensors}".encode()).hexdigest()
