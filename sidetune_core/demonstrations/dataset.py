"""Recordings of experts: what `sidetune collect` writes, and what is learnt from by imitation.

A recording is a folder:

    card.json                   what it is, see `Manifest`; written anew after each shard
    shards/00000.safetensors    the first `Manifest.shard` trajectories, and so on

A shard holds T steps of n trajectories, one trajectory after another:

    observations.NAME   (T, *shape)   what was acted on, in the type that the worlds give: uint8 for images, float32 for vectors
    actions             (T, width)    float32, as the task's policy gives them: the number of a choice, or what a Box takes, not yet clipped
    rewards             (T,)          float32
    terminated          (T,)          bool: the episode ended in that step, in a state whose value is zero
    truncated           (T,)          bool: it was cut off in that step, as by a time limit
    final.NAME          (n, *shape)   the last observation of each trajectory, which nobody has acted on
    lengths             (n,)          int64, steps
    success             (n,)          bool
    seeds               (n,)          int64: what the worlds, and the expert, were seeded with

Trajectory k depends on (seed of the recording, k) and each shard is made in worlds of its own, so a recording that was interrupted, or is
made longer, has the bytes of one that was made in one go, with the same versions on the same machine. A shard counts once the card has its
SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.config.options import structure
from sidetune_core.config.resolve import resolve_env
from sidetune_core.config.spec import Choice
from sidetune_core.errors import DataError, OptionError
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Observations
from sidetune_core.storage.atomic import write_text
from sidetune_core.storage.weights import read_tensors

FORMAT = 1
MANIFEST = "card.json"
SHARDS = "shards"


@attrs.frozen
class Shard:
    """A file of a recording."""

    file: str
    """Relative to the folder."""
    sha256: str
    trajectories: int
    steps: int
    given_up: int
    """Episodes that the expert gave up; others took their numbers."""
    total: float
    """Sum of all rewards."""
    successes: int


@attrs.frozen
class Manifest:
    """What a recording is, and how it came about."""

    format: int
    """Of the folder; this version reads and writes `FORMAT`."""
    env: dict[str, Any]
    """Name, options and seed of the env in which was acted, as in a spec."""
    task: str
    """Which of its tasks."""
    title: str
    inputs: dict[str, list[int]]
    """Shapes of the observations, by name."""
    expert: str
    """The name that the task has for it, or ``run``."""
    about: dict[str, str]
    """More about the expert: of a run, its composition and the SHA-256 of its weights."""
    seed: int
    shard: int
    """Trajectories in a whole shard."""
    versions: dict[str, str]
    trajectories: int
    """How many there are to be."""
    shards: list[Shard]

    @property
    def recorded(self) -> int:
        """How many trajectories there are."""
        return sum(shard.trajectories for shard in self.shards)

    @property
    def steps(self) -> int:
        """How many steps they have."""
        return sum(shard.steps for shard in self.shards)

    @property
    def figures(self) -> dict[str, float]:
        """Mean return, share of successes and mean length of what is recorded."""
        count = max(self.recorded, 1)
        sums = {
            "return": sum(shard.total for shard in self.shards),
            "success": sum(shard.successes for shard in self.shards),
        }
        return {name: value / count for name, value in {**sums, "length": self.steps}.items()}

    def write(self, folder: Path) -> None:
        """Put it into the folder, in place of an earlier one, with the figures for those who read it there."""
        values = {**attrs.asdict(self), "figures": self.figures}
        write_text(folder / MANIFEST, json.dumps(values, indent=2) + "\n")


@attrs.frozen(eq=False)
class Trajectories:
    """Some trajectories, one after another: T steps of n trajectories. The columns are those of a shard (see `recordings`)."""

    observations: Observations
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Observations
    lengths: Tensor
    success: Tensor
    seeds: Tensor

    def to_tensors(self) -> dict[str, Tensor]:
        """By the names that they have in a shard."""
        columns = {
            name: value
            for name, value in attrs.asdict(self, recurse=False).items()
            if isinstance(value, Tensor)
        }
        tables = {"observations": self.observations, "final": self.final}
        return columns | {
            f"{table}.{name}": value for table, values in tables.items() for name, value in values.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Trajectories:
        """What `to_tensors` gave."""
        tables: dict[str, dict[str, Tensor]] = {"observations": {}, "final": {}}
        columns: dict[str, Any] = {}
        for key, value in tensors.items():
            table, dot, name = key.partition(".")
            if dot:
                tables[table][name] = value
            else:
                columns[key] = value
        return cls(observations=tables["observations"], final=tables["final"], **columns)

    @classmethod
    def joined(cls, some: Sequence[Trajectories]) -> Trajectories:
        """One after another; at least one."""
        tables = [one.to_tensors() for one in some]
        return cls.from_tensors({name: torch.cat([table[name] for table in tables]) for name in tables[0]})

    def some(self, first: int, count: int) -> Trajectories:
        """`count` trajectories from number `first` on."""
        ends = [0, *self.lengths.cumsum(0).tolist()]
        rows, places = slice(ends[first], ends[first + count]), slice(first, first + count)
        whole = ("final.", "lengths", "success", "seeds")
        return self.from_tensors(
            {
                name: value[places if name.startswith(whole) else rows]
                for name, value in self.to_tensors().items()
            }
        )


@attrs.frozen
class Demonstrations:
    """A finished recording. `open_demonstrations` opens one."""

    folder: Path
    manifest: Manifest

    @property
    def inputs(self) -> InputShapes:
        """Shapes of the observations, by name."""
        return {name: tuple(shape) for name, shape in self.manifest.inputs.items()}

    def open_stream(self) -> TaskStream:
        """The env in which was acted, to be closed by the caller.

        Raises:
            PluginError, OptionError, DataError: it is not here, or cannot be made.
        """
        name, options, seed = (self.manifest.env.get(key) for key in ("name", "options", "seed"))
        if not isinstance(name, str) or not isinstance(options, dict) or not isinstance(seed, int):
            raise DataError(f"{self.folder / MANIFEST} names no env; record it again")
        component = resolve_env(Choice(name, options))
        stream: TaskStream = component.cls(component.config, seed)
        return stream

    def task(self, stream: TaskStream) -> RolloutTask:
        """The task of `open_stream` in which was acted.

        Raises:
            DataError: there is no such task any more, or it has other inputs.
        """
        found = next((task for task in stream.tasks() if task.id == self.manifest.task), None)
        if not isinstance(found, RolloutTask):
            raise DataError(
                f"{self.folder / MANIFEST}: the env has no task '{self.manifest.task}' to act in any more; record it again"
            )
        if {name: tuple(shape) for name, shape in found.inputs.items()} != self.inputs:
            raise DataError(
                f"{self.folder} has observations {dict(self.inputs)}, and its env now gives {dict(found.inputs)}; record it again"
            )
        return found

    def read(self, first: int, count: int) -> Trajectories:
        """`count` trajectories, at least one, from number `first` on; shards that hold none of them are not read.

        Raises:
            DataError: a shard is missing or has changed, or there are not so many.
        """
        manifest, found = self.manifest, []
        if first + count > manifest.recorded:
            raise DataError(
                f"{self.folder} has {manifest.recorded} trajectories, and {first + count} are wanted"
            )
        start = 0
        for shard in manifest.shards:
            before, after = max(first - start, 0), min(first + count - start, shard.trajectories)
            if before < after:
                found.append(self._read(shard).some(before, after - before))
            start += shard.trajectories
        return Trajectories.joined(found)

    def _read(self, shard: Shard) -> Trajectories:
        check(self.folder, shard)
        try:
            return Trajectories.from_tensors(read_tensors(self.folder / shard.file))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.folder / shard.file} does not hold the columns of a shard ({error}); record it again"
            ) from error


def open_demonstrations(folder: Path) -> Demonstrations:
    """A finished recording; of its shards nothing is read yet.

    Raises:
        DataError: there is none, it is not finished, or another version of sidetune wrote it.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no recording (there is no {MANIFEST} in it). To make one: sidetune collect --env gym --env.ids "
            f"BabyAI-GoToRedBall-v0 --env.inputs image --env.view pixels --out {folder}"
        )
    manifest = read_manifest(folder)
    if manifest.recorded < manifest.trajectories:
        raise DataError(
            f"{folder} has {manifest.recorded} of its {manifest.trajectories} trajectories: it was interrupted. Go on with the command that it was "
            "begun with (sidetune collect)"
        )
    return Demonstrations(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """The card of a recording.

    Raises:
        DataError: it cannot be read, or is of another version.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the card {path}: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise DataError(
            f"{path} has format {found!r}, and this version of sidetune reads format {FORMAT}; record it again"
        )
    values.pop("figures", None)
    try:
        return structure(Manifest, values, str(path))
    except OptionError as error:
        raise DataError(f"the card is damaged: {error}") from error


def check(folder: Path, shard: Shard) -> None:
    """See that a shard is what was written.

    Raises:
        DataError: it is missing or has changed.
    """
    path = folder / shard.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"the shard {path} cannot be read ({error.strerror or error}); sidetune collect makes it anew"
        ) from error
    if digest != shard.sha256:
        raise DataError(
            f"the shard {path} is damaged (its SHA-256 is not that of the card); delete it, and sidetune collect makes it anew"
        )
