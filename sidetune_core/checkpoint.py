"""Checkpoints at task boundaries: the learner's tensors as safetensors, and how far the run is as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import torch
from torch import nn

from sidetune_core.errors import RunError
from sidetune_core.files import write_text
from sidetune_core.weights import fill, fingerprint, read_tensors, write_tensors


def save(folder: Path, learner: nn.Module, done: Sequence[str]) -> Path:
    """Write the state after the tasks `done`; the JSON comes last, so that a checkpoint with one is whole."""
    name = f"after-{len(done):03d}"
    tensors = learner.state_dict()
    path = boundary(folder, len(done))
    write_tensors(path, tensors)
    write_text(folder / f"{name}.json", json.dumps({"done": list(done), "sha256": fingerprint(tensors)}) + "\n")
    return path


def boundary(folder: Path, count: int) -> Path:
    """Where the tensors are, or would be, after `count` tasks."""
    return folder / f"after-{count:03d}.safetensors"


def latest(folder: Path) -> Path | None:
    """The tensors of the newest whole checkpoint, or None."""
    whole = sorted(path for path in folder.glob("after-*.json") if path.with_suffix(".safetensors").is_file())
    return whole[-1].with_suffix(".safetensors") if whole else None


def done(path: Path) -> list[str]:
    """Ids of the tasks learnt before a checkpoint.

    Raises:
        RunError: its JSON is damaged.
    """
    try:
        return [str(task) for task in json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["done"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the checkpoint {path.with_suffix('.json')} is damaged; delete it to go on from the one before") from error


def load(path: Path, learner: nn.Module) -> None:
    """Fill a learner in which the same tasks have been started.

    Raises:
        WeightsError: the file is damaged, or of another learner.
        RunError: its bytes are not those that were written.
    """
    fill(learner, read(path), str(path))


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint.

    Raises:
        WeightsError: the file is missing or damaged.
        RunError: its bytes are not those that were written.
    """
    tensors = read_tensors(path)
    done(path)
    if fingerprint(tensors) != json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get("sha256"):
        raise RunError(f"the checkpoint {path} has changed since it was written; delete it to go on from the one before")
    return tensors


def parts(path: Path) -> list[str]:
    """What can be exported from a checkpoint: ``base``, ``heads.t0``, ``sides.t0``, …"""
    with safetensors.safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    found = {key.split(".")[0] for key in keys} | {".".join(key.split(".")[:2]) for key in keys if key.count(".") > 1}
    return sorted(found)


def read_part(path: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of one part, under its own keys.

    Raises:
        RunError: the checkpoint has no such part.
    """
    prefix = part + "."
    tensors = {key.removeprefix(prefix): value for key, value in read_tensors(path).items() if key.startswith(prefix)}
    if not tensors:
        raise RunError(f"{path} has no part '{part}'; it has {', '.join(parts(path))}")
    return tensors
