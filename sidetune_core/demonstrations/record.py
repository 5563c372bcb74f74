"""Recording an expert, shard by shard. `experts` says who it may be, `recordings` what is written."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

import attrs
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sidetune_core.config.options import unstructure
from sidetune_core.config.spec import Choice, choice
from sidetune_core.demonstrations.dataset import (
    FORMAT,
    MANIFEST,
    SHARDS,
    Demonstrations,
    Manifest,
    Shard,
    Trajectories,
    check,
    read_manifest,
)
from sidetune_core.demonstrations.experts import ExpertSession, open_offered, open_trained
from sidetune_core.errors import DataError, OptionError, RunError
from sidetune_core.rl.vector_env import Observations, Step, VectorEnv
from sidetune_core.seeding import derive_seed
from sidetune_core.storage.atomic import clear_unfinished, writing
from sidetune_core.storage.weights import write_tensors
from sidetune_core.system.progress import SECONDS_BETWEEN_LINES, Progress

SHARD = 50
"""Trajectories in a whole shard: what is lost at most where a collection is killed."""

ATTEMPTS = 20
"""Episodes in a row that an expert may give up."""


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
) -> Demonstrations:
    """Record an expert, or go on with what was interrupted, or make longer what is there.

    Args:
        env: whose task is acted in, as in a `RunSpec`; None where `expert` is a run, whose env it is then.
        folder: of the recording.
        trajectories: how many there are to be in it.
        expert: a name that the task offers, or the folder of a run; None for the usual one of the task.
        task: the id of the task; None where there is one only.
        seed: trajectories are functions of it and of their number.
        quiet: show no progress.
        say: shows a line of progress; None for one that writes to standard error. A `TaskStream` that records gives its own.

    Raises:
        OptionError: the task or the expert is not there.
        RunError: the folder holds another recording, or the expert or its worlds failed.
        WriteError: the folder cannot be written.
    """
    path, tell = Path(folder).expanduser(), info or Progress(quiet=quiet).info
    if isinstance(expert, Path) or (expert is not None and (Path(expert) / "run.json").is_file()):
        if env is not None:
            raise OptionError(
                f"the expert {expert} is a run, and acts in the env that it was trained in; leave out --env"
            )
        opened = open_trained(Path(expert), task)
    else:
        asked = choice(env)
        if asked is None:
            raise OptionError(
                "name the env in which is acted, such as --env gym --env.ids BabyAI-GoToRedBall-v0, or --expert RUNFOLDER"
            )
        opened = open_offered(asked, task, expert, seed)
    with opened as session:
        wanted = _manifest(session, trajectories, seed)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with _alone(path, tell):
            return _carry_out(session, path, wanted, tell)


def _manifest(session: ExpertSession, trajectories: int, seed: int) -> Manifest:
    """What is wanted, with nothing recorded yet."""
    plugin = session.env.plugin
    libraries = {name: metadata.version(name) for name in ("sidetune", "torch", "numpy")}
    ours = {plugin.distribution: plugin.version} if plugin.version else {}
    env = {"name": session.env.choice, "options": unstructure(session.env.config), "seed": session.seed}
    return Manifest(
        format=FORMAT,
        env=json.loads(json.dumps(env)),
        task=session.task.id,
        title=session.task.title,
        inputs={name: list(shape) for name, shape in session.task.inputs.items()},
        expert=session.name,
        about=dict(session.about),
        seed=seed,
        shard=SHARD,
        versions={"python": platform.python_version(), **libraries, **ours, **session.task.versions()},
        trajectories=trajectories,
        shards=[],
    )


@contextmanager
def _alone(folder: Path, info: Callable[[str], None]) -> Iterator[None]:
    """Hold a recording for a block; where another process is at work on it, wait for that."""
    lock = FileLock(folder / "lock")
    with writing(folder / "lock"):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            info(f"another process is recording into {folder}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _carry_out(
    session: ExpertSession, folder: Path, wanted: Manifest, info: Callable[[str], None]
) -> Demonstrations:
    for place in (folder, folder / SHARDS):
        clear_unfinished(place)
    manifest = _kept(folder, wanted)
    if manifest.recorded >= wanted.trajectories:
        return Demonstrations(folder, manifest)
    verb = "going on with" if manifest.recorded else "recording"
    info(
        f"{verb} {session.name} in {manifest.title}: {manifest.recorded} of {wanted.trajectories} trajectories are there, in {folder}"
    )
    manifest, told = (
        attrs.evolve(manifest, trajectories=max(manifest.trajectories, wanted.trajectories)),
        time.monotonic(),
    )
    while manifest.recorded < manifest.trajectories:
        number, first = len(manifest.shards), len(manifest.shards) * manifest.shard
        shard = _record_shard(
            session,
            folder,
            manifest.seed,
            number,
            range(first, min(first + manifest.shard, manifest.trajectories)),
        )
        manifest = attrs.evolve(manifest, shards=[*manifest.shards, shard])
        with writing(folder / MANIFEST):
            manifest.write(folder)
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            info(f"{manifest.recorded} of {manifest.trajectories} trajectories")
    figures = manifest.figures
    info(
        f"{manifest.recorded} trajectories, {manifest.steps} steps; the expert's return {figures['return']:.3f}, success {figures['success']:.3f}"
    )
    return Demonstrations(folder, manifest)


def _kept(folder: Path, wanted: Manifest) -> Manifest:
    """The card of the folder with those shards that can stay, or `wanted` where nothing is there.

    Raises:
        RunError: the folder has something else in it.
    """
    if not (folder / MANIFEST).is_file():
        foreign = [
            path.name
            for path in folder.iterdir()
            if path.name not in ("lock", SHARDS) and not path.name.startswith(f".{MANIFEST}")
        ]
        if foreign:
            raise RunError(f"{folder} holds {foreign[0]} and no recording; choose another --out")
        return wanted
    there = read_manifest(folder)
    _check_same(folder, there, wanted, ("env", "task", "inputs", "expert", "about", "seed", "shard"))
    long_enough = there.recorded >= wanted.trajectories
    kept = list(
        takewhile(
            lambda shard: _is_whole(folder, shard) and (long_enough or shard.trajectories == there.shard),
            there.shards,
        )
    )
    if not long_enough or kept != there.shards:
        _check_same(folder, there, wanted, ("versions",))
    return attrs.evolve(there, shards=kept)


def _check_same(folder: Path, there: Manifest, wanted: Manifest, fields: Sequence[str]) -> None:
    """See that a card says in some fields what is wanted.

    Raises:
        RunError: it does not.
    """
    for field in fields:
        one, other = _differing(getattr(there, field), getattr(wanted, field))
        if one != other:
            raise RunError(
                f"{folder} holds another recording: its {field} is {one}, and {other} is wanted; choose another --out, or delete it"
            )


def _is_whole(folder: Path, shard: Shard) -> bool:
    try:
        check(folder, shard)
    except DataError:
        return False
    return True


def _differing(one: Any, other: Any) -> tuple[Any, Any]:
    """Two values, tables without what they agree in."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one, other
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    pairs = {name: _differing(one.get(name), other.get(name)) for name in names}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _record_shard(session: ExpertSession, folder: Path, seed: int, number: int, trajectories: range) -> Shard:
    """Record some trajectories, in worlds of their own."""
    task = session.task
    recorded: list[Trajectories] = []
    given_up = 0
    with closing(task.make_vector_env(1)) as vector_env:
        for one in trajectories:
            for attempt in range(ATTEMPTS):
                start = derive_seed(seed, "trajectory", one, attempt) % 2**31
                found = _record(
                    session, vector_env, start, f"trajectory {one} (seed {start}) of {task.title}"
                )
                if found is not None:
                    recorded.append(found)
                    break
                given_up += 1
            else:
                raise RunError(
                    f"the expert '{session.name}' has given up {ATTEMPTS} episodes in a row of {task.title}, at trajectory {one}"
                )
    joined = Trajectories.joined(recorded)
    path = folder / SHARDS / f"{number:05d}.safetensors"
    with writing(path):
        write_tensors(path, joined.to_tensors())
    return Shard(
        file=f"{SHARDS}/{path.name}",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        trajectories=len(recorded),
        steps=len(joined.actions),
        given_up=given_up,
        total=float(joined.rewards.double().sum()),
        successes=int(joined.success.sum()),
    )


def _record(session: ExpertSession, vector_env: VectorEnv, seed: int, place: str) -> Trajectories | None:
    """One episode; None if the expert gives it up.

    Raises:
        RunError: the expert, or the worlds, failed.
    """
    now = vector_env.reset(seed)
    frames: list[Observations] = []
    taken: list[tuple[Tensor, Step]] = []
    try:
        session.expert.begin(vector_env, seed)
        while not taken or not taken[-1][1].ended:
            action = session.expert.act(now)
            if action is None:
                return None
            step = vector_env.step(action)
            frames.append(
                {name: value.clone() for name, value in now.items()}
            )  # the worlds may fill the same memory again
            taken.append((action, step))
            now = step.observations
    except RunError as error:
        raise RunError(f"{place}: {error}") from error
    except Exception as error:  # an expert may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(
            f"{place}: the expert '{session.name}' raised {reason}, at step {len(taken) + 1}"
        ) from error
    actions, steps = zip(*taken, strict=True)
    return Trajectories(
        observations={name: torch.cat([frame[name] for frame in frames]) for name in now},
        actions=torch.cat(actions),
        rewards=torch.cat([step.rewards for step in steps]),
        terminated=torch.cat([step.terminated for step in steps]),
        truncated=torch.cat([step.truncated for step in steps]),
        final=steps[-1].final,
        lengths=torch.tensor([len(steps)]),
        success=steps[-1].success,
        seeds=torch.tensor([seed]),
    )
