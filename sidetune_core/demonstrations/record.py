"""Recording demonstrations, shard by shard (see `dataset` for the files, `experts` for the experts)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.differences import differences, unflatten
from sidetune_core.config.options import unstructure, with_former_defaults
from sidetune_core.config.resolve import ResolvedComponent, resolve_env
from sidetune_core.demonstrations.dataset import (
    FORMAT,
    MANIFEST,
    SHARDS,
    Demonstrations,
    ExpertFile,
    Manifest,
    Shard,
    Trajectories,
    read_manifest,
    resolve_recorded_env,
    verify_shard,
)
from sidetune_core.demonstrations.experts import ExpertSession, open_offered, open_trained
from sidetune_core.demonstrations.policy_file import is_policy_file, open_policy_file
from sidetune_core.errors import DataError, OptionError, RunError
from sidetune_core.hashing import file_digest
from sidetune_core.rl.vector_env import Observations, Step, VectorEnv, check_finite
from sidetune_core.seeding import derive_seed
from sidetune_core.storage.atomic import clear_unfinished, writing
from sidetune_core.storage.lock import waiting_lock
from sidetune_core.storage.weights import write_tensors
from sidetune_core.system.progress import SECONDS_BETWEEN_LINES, Progress

SHARD_TRAJECTORIES = 50
"""Trajectories in a full shard; a killed recording loses at most these."""

MAX_FAILED_EPISODES = 20
"""Consecutive episodes that an expert may abort."""

LOCK = "lock"


def record_demonstrations(
    env: Choice | str | Mapping[str, Any] | None,
    folder: Path | str,
    trajectories: int,
    *,
    expert: str | Path | None = None,
    task: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    info: Callable[[str], None] | None = None,
    trust_local_code: bool = False,
) -> Demonstrations:
    """Record an expert; resumes an interrupted recording and extends a complete one.

    Args:
        env: the env to record, as in a `RunSpec`; None if `expert` is a run, which is recorded in its own
            env.
        folder: of the demonstrations.
        trajectories: their number in the folder when complete.
        expert: the name of one of the task's experts, a run folder, or a policy file of stable-baselines3;
            None for the task's default expert.
        task: the id of the task; None if the env has one task only.
        seed: trajectories are functions of it and of their index.
        quiet: show no progress.
        info: prints a line of progress; None for a printer to standard error. A `TaskStream` that records
            passes its own.
        trust_local_code: import code that the ``run.json`` of an expert names, and run code in a policy file.

    Raises:
        UntrustedCode: it names code, without `trust_local_code`.
        OptionError: there is no such task or expert.
        RunError: the folder has other demonstrations, or the expert or its environment failed.
        WriteError: the folder cannot be written.
    """
    path, info = Path(folder).expanduser(), info or Progress(quiet=quiet).info
    is_run = isinstance(expert, Path) and not is_policy_file(expert)
    if is_run or (expert is not None and (Path(expert) / "run.json").is_file()):
        assert expert is not None
        if env is not None:
            raise OptionError(
                f"the expert {expert} is a run, which is recorded in its own env; leave out --env"
            )
        opened = open_trained(Path(expert), task, trust_local_code)
    else:
        requested = choice(env)
        if requested is None:
            raise OptionError(
                "choose the environment to record with --env NAME, or a trained run with --expert RUNFOLDER"
            )
        requested = _with_former_values(path, requested)
        if expert is not None and is_policy_file(expert):
            opened = open_policy_file(requested, task, Path(expert), seed, info, trust_local_code)
        else:
            opened = open_offered(requested, task, None if expert is None else str(expert), seed)
    with opened as session:
        target = _manifest(session, path, trajectories, seed)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with waiting_lock(
            path / LOCK, lambda: info(f"another process is recording into {path}; waiting for it")
        ):
            return _record_all(session, path, target, info)


def _with_former_values(folder: Path, requested: Choice) -> Choice:
    """The env with former values of options that the demonstrations in a folder had not, and that are not
    requested: they are extended as they were begun."""
    try:
        recorded = read_manifest(folder).env if (folder / MANIFEST).is_file() else {}
    except DataError:
        return requested  # reported where they are extended
    env = resolve_env(requested)
    options = recorded.get("options")
    if recorded.get("name") != env.choice or not isinstance(options, Mapping):
        return requested
    former = with_former_defaults(type(env.config), options, env.owner)
    added = {name: value for name, value in former.items() if name not in options}
    return attrs.evolve(requested, options={**added, **requested.options})


def _manifest(session: ExpertSession, folder: Path, trajectories: int, seed: int) -> Manifest:
    """The manifest of a new recording in a folder, without shards."""
    plugin = session.env.plugin
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("sidetune", "torch", "numpy")}
    if plugin.version:
        versions[plugin.distribution] = plugin.version
    return Manifest(
        format=FORMAT,
        env=_env_values(session.env, session.seed),
        task=session.task.id,
        title=session.task.title,
        inputs={name: list(shape) for name, shape in session.task.inputs.items()},
        expert=session.name,
        about=dict(session.about),
        seed=seed,
        shard=SHARD_TRAJECTORIES,
        versions={**versions, **session.task.versions()},
        trajectories=trajectories,
        shards=[],
        expert_file=_expert_file(session, folder),
    )


def _expert_file(session: ExpertSession, folder: Path) -> ExpertFile | None:
    if session.path is None:
        return None
    return ExpertFile(os.path.relpath(session.path.resolve(), folder.resolve()), session.trained)


def _env_values(env: ResolvedComponent, seed: int) -> dict[str, Any]:
    """An env as JSON values: name, options and seed."""
    values = {"name": env.choice, "options": unstructure(env.config), "seed": seed}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _record_all(
    session: ExpertSession, folder: Path, target: Manifest, info: Callable[[str], None]
) -> Demonstrations:
    for directory in (folder, folder / SHARDS):
        clear_unfinished(directory)
    manifest = _existing_manifest(folder, target)
    if manifest.recorded >= target.trajectories:
        return Demonstrations(folder, manifest)
    verb = "resuming" if manifest.recorded else "recording"
    info(
        f"{verb} {session.name} in {manifest.title}: {manifest.recorded} of {target.trajectories} "
        f"trajectories recorded, in {folder}"
    )
    manifest = attrs.evolve(manifest, trajectories=max(manifest.trajectories, target.trajectories))
    reported = time.monotonic()
    while manifest.recorded < manifest.trajectories:
        index = len(manifest.shards)
        first = index * manifest.shard
        indices = range(first, min(first + manifest.shard, manifest.trajectories))
        shard = _record_shard(session, folder, manifest.seed, index, indices)
        manifest = attrs.evolve(manifest, shards=[*manifest.shards, shard])
        with writing(folder / MANIFEST):
            manifest.write(folder)
        if time.monotonic() - reported > SECONDS_BETWEEN_LINES:
            reported = time.monotonic()
            info(f"{manifest.recorded} of {manifest.trajectories} trajectories")
    metrics = manifest.metrics
    info(
        f"{manifest.recorded} trajectories, {manifest.steps} steps; expert return {metrics['return']:.3f}, "
        f"success {metrics['success']:.3f}"
    )
    return Demonstrations(folder, manifest)


def _existing_manifest(folder: Path, target: Manifest) -> Manifest:
    """The manifest of the folder with the shards that can be kept, or `target` if the folder is empty.

    Raises:
        RunError: the folder has something else in it.
    """
    if not (folder / MANIFEST).is_file():
        foreign = [path.name for path in folder.iterdir() if not _is_ours(path.name)]
        if foreign:
            raise RunError(f"{folder} contains {foreign[0]} and no demonstrations; choose another --out")
        return target
    manifest = read_manifest(folder)
    if manifest.env.get("name") == target.env["name"]:  # its options may have the names of an earlier version
        env = resolve_recorded_env(folder, manifest, trust_local_code=True)  # the target's, and not built
        manifest = attrs.evolve(manifest, env=_env_values(env, manifest.env["seed"]))
    _check_same(folder, manifest, target, ("env", "task", "inputs", "expert", "about", "seed", "shard"))
    complete = manifest.recorded >= target.trajectories

    def can_stay(shard: Shard) -> bool:
        return _is_intact(folder, shard) and (complete or shard.trajectories == manifest.shard)

    kept = list(takewhile(can_stay, manifest.shards))
    if not complete or kept != manifest.shards:
        _check_same(folder, manifest, target, ("versions",))
    return attrs.evolve(manifest, shards=kept)


def _is_ours(name: str) -> bool:
    return name in (LOCK, SHARDS) or name.startswith(f".{MANIFEST}")


def _check_same(folder: Path, existing: Manifest, target: Manifest, fields: Iterable[str]) -> None:
    """Check that two manifests agree in some fields.

    Raises:
        RunError: they do not.
    """
    for field in fields:
        changed = differences({field: getattr(existing, field)}, {field: getattr(target, field)})
        if changed:
            now, requested = (
                unflatten({change.name: getattr(change, side) for change in changed})[field]
                for side in ("first", "second")
            )
            raise RunError(
                f"{folder} has other demonstrations: its {field} is {now}, but {requested} was requested; "
                "choose another --out, or delete the folder"
            )


def _is_intact(folder: Path, shard: Shard) -> bool:
    try:
        verify_shard(folder, shard)
    except DataError:
        return False
    return True


def _record_shard(session: ExpertSession, folder: Path, seed: int, index: int, trajectories: range) -> Shard:
    """Record trajectories in new environments."""
    task = session.task
    recorded: list[Trajectories] = []
    failed = 0
    with closing(task.make_vector_env(1)) as vector_env:
        for number in trajectories:
            for attempt in range(MAX_FAILED_EPISODES):
                start = derive_seed(seed, "trajectory", number, attempt) % 2**31
                where = f"trajectory {number} (seed {start}) of {task.title}"
                trajectory = _record_episode(session, vector_env, start, where)
                if trajectory is not None:
                    recorded.append(trajectory)
                    break
                failed += 1
            else:
                raise RunError(
                    f"expert '{session.name}' failed {MAX_FAILED_EPISODES} consecutive episodes of "
                    f"{task.title}, at trajectory {number}"
                )
    joined = Trajectories.concatenated(recorded)
    path = folder / SHARDS / f"{index:05d}.safetensors"
    with writing(path):
        write_tensors(path, joined.to_tensors())
    return Shard(
        file=f"{SHARDS}/{path.name}",
        sha256=file_digest(path),
        trajectories=len(recorded),
        steps=len(joined.actions),
        given_up=failed,
        total=float(joined.rewards.double().sum()),
        successes=int(joined.success.sum()),
    )


def _record_episode(
    session: ExpertSession, vector_env: VectorEnv, seed: int, where: str
) -> Trajectories | None:
    """One episode; None if the expert aborts it.

    Raises:
        RunError: the expert or the environment failed, or returned a value that is not finite.
    """
    observations = vector_env.reset(seed)
    frames: list[Observations] = []
    actions: list[Tensor] = []
    steps: list[Step] = []
    try:
        session.expert.begin(vector_env, seed)
        while not steps or not steps[-1].ended:
            action = session.expert.act(observations)
            if action is None:
                return None
            frames.append({name: value.clone() for name, value in observations.items()})  # buffers are reused
            if not action.isfinite().all():
                raise RunError(f"the expert '{session.name}' returned an action that is not finite")
            step = vector_env.step(action)
            check_finite(step, session.task.title, f"step {len(steps) + 1}")
            actions.append(action)
            steps.append(step)
            observations = step.observations
    except RunError as error:
        raise RunError(f"{where}: {error}") from error
    except Exception as error:  # an expert may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(
            f"{where}: the expert '{session.name}' raised {reason}, at step {len(steps) + 1}"
        ) from error
    return Trajectories(
        observations={name: torch.cat([frame[name] for frame in frames]) for name in observations},
        actions=torch.cat(actions),
        rewards=torch.cat([step.rewards for step in steps]),
        terminated=torch.cat([step.terminated for step in steps]),
        truncated=torch.cat([step.truncated for step in steps]),
        final=steps[-1].final_observations,
        lengths=torch.tensor([len(steps)]),
        success=steps[-1].success,
        seeds=torch.tensor([seed]),
    )
