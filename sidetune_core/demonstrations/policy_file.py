"""Policy files of stable-baselines3 as experts."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidetune_core.config.choice import Choice
from sidetune_core.config.resolve import resolve_env
from sidetune_core.demonstrations.dataset import SB3
from sidetune_core.demonstrations.experts import ExpertSession, choose_task
from sidetune_core.demonstrations.imported import make_policy_handler
from sidetune_core.errors import DataError, InputError, OptionError, RunError, UntrustedCode
from sidetune_core.hashing import file_digest
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.rl.policy_handler import PolicyHandler
from sidetune_core.rl.vector_env import Observations, VectorEnv
from sidetune_core.seeding import derive_seed

MEMBERS = {"data", "policy.pth"}
"""Of the archive that a model's ``save`` writes."""
STATISTICS = "vecnormalize.pkl"
"""The file of VecNormalize that is used if it is in the folder of the policy, as in RL Zoo."""
INSTALL = "pip install 'sidetune[demonstrations]'"
OF_CONTRIB = "pip install sb3-contrib"


def is_policy_file(path: str | Path) -> bool:
    """Whether it names a file ``.zip``."""
    return Path(path).suffix == ".zip"


@contextmanager
def open_policy_file(
    requested: Choice,
    task_id: str | None,
    path: Path,
    seed: int,
    info: Callable[[str], None],
    trust_local_code: bool,
) -> Iterator[ExpertSession]:
    """A policy with the env that it acts in, for a block; the env is closed after it.

    Args:
        requested: the env.
        task_id: of the task; None if the env has one task only.
        path: what a model's ``save`` wrote.
        seed: of the env.
        info: prints a line.
        trust_local_code: read the file, which runs code that is in it.

    Raises:
        UntrustedCode: without `trust_local_code`.
        DataError: it is not such a file, or a library is missing.
        OptionError: there is no such env or task, or its observations or actions are not those of the policy.
    """
    component = resolve_env(requested)
    stream: TaskStream = component.cls(component.config, seed)
    with closing(stream):
        task = choose_task(stream.tasks(), task_id, component.owner)
        handler = make_policy_handler(component, task)
        expert, about = open_policy(path, handler, task.options.deterministic_eval, info, trust_local_code)
        yield ExpertSession(component, seed, task, expert, SB3, about, path)


def open_policy(
    path: Path,
    handler: PolicyHandler,
    deterministic: bool,
    info: Callable[[str], None],
    trust_local_code: bool,
) -> tuple[PolicyFileExpert, dict[str, str]]:
    """A policy as an expert, and what a manifest says about it.

    Args:
        path: see `open_policy_file`.
        handler: of the task to act in.
        deterministic: take the most likely action.
        info: see `open_policy_file`.
        trust_local_code: see there.

    Raises:
        UntrustedCode, DataError, OptionError: see there.
    """
    _check_archive(path)
    if not trust_local_code:
        raise UntrustedCode(f"{path} is a file of stable-baselines3, which runs code when it is loaded")
    policy, statistics = _load(path), _load_statistics(path.parent / STATISTICS, info)
    about = {
        "policy": type(policy).__name__,
        "sha256": file_digest(path),
        "actions": "mode" if deterministic else "sample",
    }
    if statistics is not None:
        about["statistics"] = file_digest(path.parent / STATISTICS)
    return PolicyFileExpert(policy, statistics, handler, deterministic, path), about


class PolicyFileExpert:
    """A policy of stable-baselines3 as an `Expert`.

    Args:
        policy: with its ``predict``, observation space and action space.
        statistics: a VecNormalize without environments, or None.
        handler: of the task to act in.
        deterministic: take the most likely action.
        path: of the policy, for messages.

    Raises:
        OptionError: the actions are not those of the task.
    """

    def __init__(
        self, policy: Any, statistics: Any, handler: PolicyHandler, deterministic: bool, path: Path
    ) -> None:
        self._policy, self._statistics, self._handler = policy, statistics, handler
        self._deterministic, self._path = deterministic, path
        self._state: Any = None
        self._starts = np.ones(1, bool)
        try:
            handler.encode_actions(_last_action(policy.action_space)[None])
        except InputError as error:
            raise OptionError(
                f"{path} has actions {policy.action_space}, and {handler.card.title} others: {error}"
            ) from error

    def copy(self) -> PolicyFileExpert:
        """Another one with the same policy."""
        return PolicyFileExpert(
            self._policy, self._statistics, self._handler, self._deterministic, self._path
        )

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        self._seed, self._steps, self._state, self._starts = seed, 0, None, np.ones(1, bool)

    def act(self, observations: Observations) -> Tensor:
        """See `Expert`.

        Raises:
            RunError: the observations are not those of the policy.
        """
        given = self._observation(observations)
        if self._statistics is not None:
            given = self._statistics.normalize_obs(given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "actions", self._steps) % 2**63)
            actions, self._state = self._policy.predict(
                given, self._state, self._starts, deterministic=self._deterministic
            )
        self._steps, self._starts = self._steps + 1, np.zeros(1, bool)
        return self._handler.encode_actions(actions)

    def _observation(self, observations: Observations) -> Any:
        """Observations (1, ...) in the space of the policy."""
        from gymnasium import spaces

        space = self._policy.observation_space
        if isinstance(space, spaces.Dict):
            return {name: self._part(name, part, observations) for name, part in space.items()}
        return self._part(None, space, observations)

    def _part(self, name: str | None, space: Any, observations: Observations) -> Any:
        from gymnasium import spaces

        size = spaces.flatdim(space)
        names = [key for key, value in observations.items() if value[0].numel() == size]
        if name is not None:
            names = [key for key in names if key == name]
        if len(names) != 1:
            raise RunError(
                f"{self._path} acts on {space}{f' named {name}' if name else ''}, and the env gives "
                f"{', '.join(f'{key} {tuple(value.shape[1:])}' for key, value in observations.items())}. "
                "Change them by --env.inputs, --env.image-size, --env.grayscale or --env.frame-stack"
            )
        flat = observations[names[0]].numpy().reshape(-1)
        if isinstance(space, spaces.Box):
            return flat.reshape(1, *space.shape).astype(space.dtype)
        return np.asarray(spaces.unflatten(space, flat.astype(np.int64)))[None]


def _last_action(space: Any) -> Any:
    """The action with the largest numbers."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + space.n - 1)
    return space.nvec - 1 if isinstance(space, spaces.MultiDiscrete) else np.zeros_like(space.sample())


def _check_archive(path: Path) -> None:
    """Check that a file has the members of a saved model.

    Raises:
        DataError: it has not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            missing = MEMBERS - set(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not a file that model.save() of stable-baselines3 wrote: {error}"
        ) from error
    if missing:
        raise DataError(
            f"{path} is not a file that model.save() of stable-baselines3 wrote: it has no "
            f"{' and no '.join(sorted(missing))}"
        )


def _load(path: Path) -> Any:
    """The policy of a file, without its algorithm.

    Raises:
        DataError: it cannot be loaded.
    """
    try:
        from stable_baselines3.common.save_util import load_from_zip_file
    except ImportError as error:
        raise DataError(f"{path} needs 'stable_baselines3': {INSTALL}") from error
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu")
        arguments = dict(data["policy_kwargs"])
        arguments.pop("device", None)
        if "use_sde" in data and data["use_sde"]:
            arguments["use_sde"] = True
        policy = data["policy_class"](
            data["observation_space"], data["action_space"], lambda _: 0.0, **arguments
        )
        policy.load_state_dict(parameters["policy"])
    except ModuleNotFoundError as error:
        install = OF_CONTRIB if error.name == "sb3_contrib" else f"pip install {error.name}"
        raise DataError(f"{path} needs '{error.name}': {install}") from error
    except Exception as error:  # unpickling may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} cannot be loaded: {reason}") from error
    policy.set_training_mode(False)
    return policy


def _load_statistics(path: Path, info: Callable[[str], None]) -> Any:
    """The VecNormalize of a file, or None if there is no file or it standardises no observations.

    Raises:
        DataError: it cannot be loaded.
    """
    if not path.is_file():
        return None
    try:
        statistics = pickle.loads(path.read_bytes())
        used = bool(statistics.norm_obs)
    except Exception as error:  # unpickling may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} is no VecNormalize: {reason}") from error
    if used:
        info(f"observations are standardised for the expert by {path}")
    return statistics if used else None
