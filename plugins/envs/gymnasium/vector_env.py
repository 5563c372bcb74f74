"""Several Gymnasium environments side by side, in this process or in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from torch import Tensor

from sidetune_core.api import OptionError, RunError, Shape
from sidetune_core.rl import Categorical, Gaussian, Observations, Policy, Step

from .make import NOTE

Space = spaces.Space[Any]


class GymWorlds:
    """`Worlds` of Gymnasium environments, whose episodes begin anew in the step in which they end (autoreset mode SAME_STEP).

    At the end of an episode, ``info`` has its ``success``, and may have a table of ``measures``.

    Args:
        makers: make one environment each; they are sent to processes.
        id: names them in messages.
        stacked: whether observations are (stack, C, ...).
        processes: whether each has a process of its own.
        timeout: seconds that a step or a reset in processes may take.
        blind: whether images are blank.
        context: how processes begin; by a server that has imported what takes long, where there is one.

    Raises:
        RunError: the processes could not be started.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        id: str,
        stacked: bool,
        processes: bool,
        timeout: float,
        blind: bool = False,
        context: Literal["spawn", "forkserver"] = "spawn",
    ) -> None:
        self._id, self._timeout, self._blind = id, timeout, blind
        self._stacked, self._taken, self._broken = stacked, 0, False
        self._envs: AsyncVectorEnv | SyncVectorEnv
        if processes:
            try:
                self._envs = AsyncVectorEnv(
                    makers, context=context, copy=False, autoreset_mode=AutoresetMode.SAME_STEP
                )
            except (EOFError, ConnectionError) as error:
                raise RunError(
                    f"the processes of {id} could not be started; what they wrote above says why. A script that starts processes is "
                    'a file, and runs below `if __name__ == "__main__":`. Without --env.processes there are none'
                ) from error
        else:
            self._envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        self._actions = self._envs.single_action_space

    def reset(self, seed: int) -> Observations:
        """Begin an episode in each; environment k has the seed ``seed + k``, of 31 bits."""
        with self._told("reset"):
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.reset_async(seed=seed % 2**31)
                found, _ = self._envs.reset_wait(timeout=self._timeout)
            else:
                found, _ = self._envs.reset(seed=seed % 2**31)
        return self._tensors(found)

    def step(self, actions: Tensor) -> Step:
        """See `Worlds`.

        Raises:
            RunError: an environment raised, did not answer in time, or its process has ended.
        """
        self._taken += 1
        with self._told(f"step {self._taken}"):
            given = as_actions(self._actions, actions)
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.step_async(given)
                found, rewards, terminated, truncated, infos = self._envs.step_wait(timeout=self._timeout)
            else:
                found, rewards, terminated, truncated, infos = self._envs.step(given)
        success = torch.zeros(len(rewards), dtype=torch.bool)
        final: Observations = {}
        measures: dict[str, Tensor] = {}
        if "final_obs" in infos:
            last = [one for one in infos["final_obs"] if one is not None]
            final = self._tensors({name: np.stack([one[name] for one in last]) for name in last[0]})
            told = infos["final_info"]
            success = torch.from_numpy(told["success"].astype(bool))
            measures = {
                name: torch.from_numpy(value)
                for name, value in told.get("measures", {}).items()
                if not name.startswith("_")
            }
        ends = torch.from_numpy(terminated), torch.from_numpy(truncated)
        return Step(self._tensors(found), torch.from_numpy(rewards).float(), *ends, success, final, measures)

    def call(self, name: str) -> tuple[Any, ...]:
        """What a method of each environment gives."""
        with self._told(f"a call of {name}, after step {self._taken}"):
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.call_async(name)
                return tuple(self._envs.call_wait(timeout=self._timeout))
            return self._envs.call(name)

    @property
    def first(self) -> gymnasium.Env[Any, Any]:
        """The first environment, which is in this process."""
        assert isinstance(self._envs, SyncVectorEnv)
        return self._envs.envs[0]

    def close(self) -> None:
        """Close the environments; processes that do not answer are ended."""
        if not isinstance(self._envs, AsyncVectorEnv):
            self._envs.close()
            return
        whole = not self._broken and all(process.is_alive() for process in self._envs.processes)
        if not whole:
            for process in self._envs.processes:
                process.kill()
            self._envs._state = AsyncState.DEFAULT  # or it would wait for an answer
        self._envs.close(timeout=self._timeout, terminate=not whole)

    def _tensors(self, found: Mapping[str, Any]) -> Observations:
        """Stacks (E, stack, C, ...) as channels (E, stack * C, ...)."""
        values = {name: torch.tensor(value) for name, value in found.items()}
        if self._stacked:
            values = {name: value.flatten(1, 2) for name, value in values.items()}
        return {
            name: torch.zeros_like(value) if self._blind and value.ndim == 4 else value
            for name, value in values.items()
        }

    @contextmanager
    def _told(self, moment: str) -> Iterator[None]:
        """Say which environment failed, and when.

        Raises:
            RunError: one did.
        """
        try:
            yield
        except multiprocessing.TimeoutError as error:
            assert isinstance(self._envs, AsyncVectorEnv)
            silent = [number for number, pipe in enumerate(self._envs.parent_pipes) if not pipe.poll(0)]
            raise self._error(
                silent, moment, f"did not answer within {self._timeout:g} s (--env.timeout)"
            ) from error
        except (EOFError, ConnectionError) as error:
            assert isinstance(self._envs, AsyncVectorEnv)
            for process in self._envs.processes:
                process.join(0.1)
            gone = [number for number, process in enumerate(self._envs.processes) if not process.is_alive()]
            raise self._error(gone, moment, "lost its process, which was killed or has crashed") from error
        except Exception as error:  # an environment may raise anything
            if isinstance(self._envs, AsyncVectorEnv):
                failed = [number for number, pipe in enumerate(self._envs.parent_pipes) if pipe is None]
            else:
                notes = [note for note in getattr(error, "__notes__", []) if note.startswith(NOTE)]
                failed = [int(note.removeprefix(NOTE)) for note in notes]
            reason = f"raised {type(error).__name__}: {error}".splitlines()[0]
            raise self._error(failed, moment, reason) from error
        except BaseException:
            self._broken = True  # an answer may be under way
            raise

    def _error(self, numbers: Sequence[int], moment: str, reason: str) -> RunError:
        self._broken = True
        which = (
            f"environment {', '.join(map(str, numbers))} of {self._id}"
            if numbers
            else f"an environment of {self._id}"
        )
        return RunError(
            f"{which} {reason}, at {moment} since it was opened. Go on from the last update with --resume"
        )


def policy_of(space: Space, owner: str) -> Policy:
    """The distributions over the actions of a space.

    Raises:
        OptionError: there are none.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return Categorical([int(count) for count in space.nvec])
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Categorical([2] * space.shape[0])
    if isinstance(space, spaces.Box):
        return Gaussian(int(np.prod(space.shape)))
    raise OptionError(f"{owner} has actions {space}; Discrete, MultiDiscrete, MultiBinary and Box are known")


def as_actions(space: Space, actions: Tensor) -> Any:
    """Actions (E, width) as an environment takes them; those of a Box are clipped to it."""
    if isinstance(space, spaces.Discrete):
        return actions[:, 0].long().numpy() + space.start
    if isinstance(space, spaces.MultiDiscrete):
        return actions.long().numpy() + space.start
    if isinstance(space, spaces.MultiBinary):
        return actions.to(torch.int8).numpy()
    assert isinstance(space, spaces.Box)
    return np.clip(actions.numpy().reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)


def shapes_of(space: Space, stacked: bool) -> dict[str, Shape]:
    """Shapes of the inputs that `GymWorlds` gives."""
    assert isinstance(space, spaces.Dict)
    shapes = {name: part.shape or () for name, part in space.items()}
    return {name: (shape[0] * shape[1], *shape[2:]) for name, shape in shapes.items()} if stacked else shapes
