"""The folder of demonstrations that `sidetune record` writes and imitation learning reads.

    card.json                   the manifest, see `Manifest`; rewritten after each shard
    shards/00000.safetensors    the first `Manifest.shard` trajectories, and so on

A shard holds the T steps of n trajectories, concatenated:

    observations.NAME   (T, *shape)   input of the expert, in the dtype of the environment: uint8 images,
    float32 vectors actions             (T, width)    float32, as sampled: the index of a choice, or the value
    for a Box before clipping rewards             (T,)          float32 terminated          (T,)
    bool: the episode ended in that step in a terminal state, whose value is zero truncated           (T,)
    bool: the episode was cut off in that step, for example by a time limit final.NAME          (n, *shape)
    the observation after the last step of each trajectory lengths             (n,)          int64, in steps
    success             (n,)          bool seeds               (n,)          int64: seeds of the environment
    and the expert

Trajectory k depends on (seed of the demonstrations, k) only, and every shard is recorded in new environments.
So demonstrations that were interrupted or extended have the same bytes as those of a single recording, given
the same versions and machine. A shard is complete when the manifest has its SHA-256.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.assembly.cards import make_handler
from sidetune_core.config.choice import Choice
from sidetune_core.config.options import REMOVAL, FormerSpelling, structure
from sidetune_core.config.resolve import ResolvedComponent, resolve_env
from sidetune_core.errors import DataError, OptionError
from sidetune_core.hashing import file_digest
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import TaskHandler
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.io import strict_json
from sidetune_core.io.files import check_shapes, read_text
from sidetune_core.rl.policy_handler import PolicyHandler
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Observations
from sidetune_core.storage.atomic import write_text
from sidetune_core.storage.run_files import CARDS
from sidetune_core.storage.weights import read_tensors

FORMAT = 1
MANIFEST = "card.json"
SHARDS = "shards"

RUN = "run"
"""The expert's name in the manifest if it is the policy of a run."""
SB3 = "stable-baselines3"
"""The beginning of the expert's name if it is a policy file of that library."""


@attrs.frozen
class Shard:
    """A file of demonstrations; the fields are keys of the manifest."""

    file: str
    """Relative to the folder."""
    sha256: str
    trajectories: int
    steps: int
    given_up: int
    """Episodes that the expert aborted and that were recorded again with another seed."""
    total: float
    """Sum of all rewards."""
    successes: int


@attrs.frozen
class ExpertFile:
    """Where an expert that is a run or a policy file was when it was recorded."""

    path: str
    """Relative to the folder of the demonstrations, so that both may be moved together."""
    task: str = ""
    """The task of the run whose policy it was; empty for a policy file."""


@attrs.frozen
class Manifest:
    """What was recorded, and how; the fields are keys of ``card.json``."""

    format: int
    """Format version of the folder; this version reads and writes `FORMAT`."""
    env: dict[str, Any]
    """Name, options and seed of the env, as in a spec."""
    task: str
    """Id of the recorded task."""
    title: str
    inputs: dict[str, list[int]]
    """Shapes of the observations, by name."""
    expert: str
    """Name of the task's expert, or ``run``, or ``stable-baselines3`` for a policy file of that library."""
    about: dict[str, str]
    """More about the expert: for a run, its components and the SHA-256 of its weights; for a file, its
    SHA-256."""
    seed: int
    shard: int
    """Trajectories in a full shard."""
    versions: dict[str, str]
    trajectories: int
    """Number of trajectories when complete."""
    shards: list[Shard]
    expert_file: ExpertFile | None = None
    """Of an expert that is not the task's own; None for one of these, and in files of earlier versions."""

    @property
    def recorded(self) -> int:
        """Number of trajectories recorded so far."""
        return sum(shard.trajectories for shard in self.shards)

    @property
    def steps(self) -> int:
        """Number of steps recorded so far."""
        return sum(shard.steps for shard in self.shards)

    @property
    def metrics(self) -> dict[str, float]:
        """Mean return, success rate and mean length of the recorded trajectories."""
        count = max(self.recorded, 1)
        return {
            "return": sum(shard.total for shard in self.shards) / count,
            "success": sum(shard.successes for shard in self.shards) / count,
            "length": self.steps / count,
        }

    @property
    def figures(self) -> dict[str, float]:
        """The former name of `metrics`."""
        warnings.warn(
            f"Manifest.figures is now Manifest.metrics; the former name stops working in version {REMOVAL}",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.metrics

    def write(self, folder: Path) -> None:
        """Write ``card.json`` atomically; it also has the `metrics`, under the key ``figures``."""
        values = {**attrs.asdict(self), "figures": self.metrics}
        if self.expert_file is None:
            del values["expert_file"]
        write_text(folder / MANIFEST, strict_json.dumps(values, indent=2) + "\n")


@attrs.frozen(eq=False)
class Trajectories:
    """The T steps of n concatenated trajectories, in the columns of a shard (see the module's docstring)."""

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
        """All columns, by their names in a shard."""
        fields = attrs.asdict(self, recurse=False).items()
        columns = {name: value for name, value in fields if isinstance(value, Tensor)}
        columns |= {f"observations.{name}": value for name, value in self.observations.items()}
        return columns | {f"final.{name}": value for name, value in self.final.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Trajectories:
        """The inverse of `to_tensors`."""
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
    def concatenated(cls, trajectories: Sequence[Trajectories]) -> Trajectories:
        """At least one object's trajectories, in order."""
        tables = [part.to_tensors() for part in trajectories]
        return cls.from_tensors({name: torch.cat([table[name] for table in tables]) for name in tables[0]})

    def subset(self, first: int, count: int) -> Trajectories:
        """`count` trajectories, from index `first`."""
        ends = [0, *self.lengths.cumsum(0).tolist()]
        steps, indices = slice(ends[first], ends[first + count]), slice(first, first + count)
        columns = {}
        for name, value in self.to_tensors().items():
            per_trajectory = name.startswith(("final.", "lengths", "success", "seeds"))
            columns[name] = value[indices if per_trajectory else steps]
        return self.from_tensors(columns)


@attrs.frozen
class Demonstrations:
    """Complete demonstrations, opened by `open_demonstrations`."""

    folder: Path
    manifest: Manifest

    @property
    def inputs(self) -> InputShapes:
        """Shapes of the observations, by name."""
        return {name: tuple(shape) for name, shape in self.manifest.inputs.items()}

    @property
    def env(self) -> Mapping[str, Any]:
        """Name, options and seed of the env that was recorded, as JSON values."""
        return self.manifest.env

    @property
    def recorded(self) -> int:
        """Number of trajectories."""
        return self.manifest.recorded

    @property
    def expert(self) -> str | None:
        """Name of the task's expert; None for the policy of a run or a file."""
        expert = self.manifest.expert
        return None if expert == RUN or expert.startswith(SB3) else expert

    def open_stream(self, trust_local_code: bool = False) -> TaskStream:
        """The env that was recorded; the caller closes it.

        Args:
            trust_local_code: import code that the manifest names, such as an env ``module:Class``.

        Raises:
            UntrustedCode: the manifest names code, without `trust_local_code`.
            PluginError, OptionError, DataError: the env is not installed or cannot be created.
        """
        component = resolve_recorded_env(self.folder, self.manifest, trust_local_code)
        stream: TaskStream = component.cls(component.config, self.manifest.env["seed"])
        stream.trust_local_code = trust_local_code
        return stream

    def task(self, stream: TaskStream) -> RolloutTask:
        """The recorded task of `open_stream`.

        Raises:
            DataError: the env no longer has such a task, or its observations have changed.
        """
        task = next((task for task in stream.tasks() if task.id == self.manifest.task), None)
        if not isinstance(task, RolloutTask):
            raise DataError(
                f"{self.folder / MANIFEST}: the env no longer has a rollout task '{self.manifest.task}'; "
                "record it again"
            )
        if {name: tuple(shape) for name, shape in task.inputs.items()} != self.inputs:
            raise DataError(
                f"{self.folder} has observations {dict(self.inputs)}, but its env now returns "
                f"{dict(task.inputs)}; record it again"
            )
        return task

    def read(self, first: int, count: int) -> Trajectories:
        """`count` trajectories, at least one, from index `first`; only the shards that hold them are read.

        Raises:
            DataError: a shard is missing or damaged, or there are too few trajectories.
        """
        manifest = self.manifest
        if first + count > manifest.recorded:
            raise DataError(
                f"{self.folder} has {manifest.recorded} trajectories, and {first + count} were requested"
            )
        parts, start = [], 0
        for shard in manifest.shards:
            begin, end = max(first - start, 0), min(first + count - start, shard.trajectories)
            if begin < end:
                parts.append(self._read_shard(shard).subset(begin, end - begin))
            start += shard.trajectories
        return Trajectories.concatenated(parts)

    def _read_shard(self, shard: Shard) -> Trajectories:
        verify_shard(self.folder, shard)
        try:
            return Trajectories.from_tensors(read_tensors(self.folder / shard.file))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.folder / shard.file} does not have the columns of a shard ({error}); record it again"
            ) from error


def open_demonstrations(folder: Path) -> Demonstrations:
    """Complete demonstrations; no shard is read yet.

    Raises:
        DataError: there are none, they are incomplete, or another version of sidetune wrote them.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} has no demonstrations (no {MANIFEST}). Record them: sidetune record --env NAME --out "
            f"{folder}"
        )
    manifest = read_manifest(folder)
    if manifest.recorded < manifest.trajectories:
        raise DataError(
            f"{folder} has {manifest.recorded} of its {manifest.trajectories} trajectories: the recording "
            "was interrupted. Run the same sidetune record command again to complete it"
        )
    return Demonstrations(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of demonstrations.

    Raises:
        DataError: it cannot be read, or has another format version.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the manifest {path}: {error}") from error
    format = values.get("format") if isinstance(values, dict) else None
    if format != FORMAT:
        raise DataError(
            f"{path} has format {format!r}, and this version of sidetune reads format {FORMAT}; record it "
            "again"
        )
    values.pop("figures", None)
    try:
        manifest = structure(Manifest, values, str(path))
        check_shapes(manifest.inputs)
        return manifest
    except (OptionError, ValueError) as error:
        raise DataError(f"the manifest is damaged: {error}") from error


def resolve_recorded_env(
    folder: Path, manifest: Manifest, trust_local_code: bool = False
) -> ResolvedComponent:
    """The env of a manifest, whose options may have the names of an earlier version.

    Raises:
        DataError: the manifest names no env.
        UntrustedCode: it names code to import, without `trust_local_code`.
        PluginError, OptionError: the env is not installed or has no such options.
    """
    name, options, seed = (manifest.env.get(key) for key in ("name", "options", "seed"))
    if not isinstance(name, str) or not isinstance(options, dict) or not isinstance(seed, int):
        raise DataError(f"{folder / MANIFEST} names no env; record it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FormerSpelling)
        file = "" if trust_local_code else str(folder / MANIFEST)
        return resolve_env(Choice(name, options, file=file, recorded=True))


def recorded_handler(card: TaskCard, env: str) -> TaskHandler:
    """The handler of a policy that was trained on demonstrations: that of the recorded env.

    An env that is code of its user, ``module:Class``, is not imported: observations and actions are then
    those of a `VectorEnv` (see `PolicyHandler`).

    Args:
        card: of the task.
        env: the name of the recorded env.

    Raises:
        PluginError: the env is not installed.
        RunError: it cannot use the card.
        ValueError: it has no handler.
    """
    if ":" in env:
        return PolicyHandler(card)
    handler = make_handler(attrs.evolve(card, env=env), Path(CARDS) / f"{card.id}.json")
    if handler is None:
        raise ValueError(f"env '{env}' has no handler")
    return handler


def verify_shard(folder: Path, shard: Shard) -> None:
    """Check the SHA-256 of a shard.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / shard.file
    if Path(shard.file).is_absolute() or ".." in Path(shard.file).parts:
        raise DataError(f"{folder / MANIFEST} names a shard elsewhere, {shard.file!r}; record it again")
    try:
        digest = file_digest(path)
    except OSError as error:
        raise DataError(
            f"the shard {path} cannot be read ({error.strerror or error}). Run the same sidetune record "
            "command again to re-record it"
        ) from error
    if digest != shard.sha256:
        raise DataError(
            f"the shard {path} is damaged (its SHA-256 differs from the manifest). Run the same sidetune "
            "record command again to re-record it"
        )
