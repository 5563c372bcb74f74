"""Vectorised Gymnasium environments, in this process or in one process each."""

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

from sidetune_core.api import RunError, Shape
from sidetune_core.rl import Image, Observations, RolloutError, Step

from .actions import ActionConverter
from .make import NOTE
from .parts import Space

FRAMES_PER_SECOND = 30.0
"""Of environments that do not say how many they render."""


class GymVectorEnv:
    """`VectorEnv` of Gymnasium environments with automatic resets in the same step
    (``AutoresetMode.SAME_STEP``).

    At the end of an episode, ``info`` has ``success``, and may have a dictionary ``metrics``.

    Args:
        makers: functions that create one environment each; they are pickled for processes.
        id: of the environments, for messages.
        stacked: whether observations are (frame-stack, C, ...).
        processes: whether each environment has its own process.
        timeout: seconds that a step or a reset in processes may take.
        mask_images: whether images are zeroed.
        rescale_actions: see `ActionConverter`.
        context: start method of the processes; a fork server imports slow modules once.

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
        mask_images: bool = False,
        rescale_actions: bool = False,
        context: Literal["spawn", "forkserver"] = "spawn",
    ) -> None:
        self._id, self._timeout, self._mask_images = id, timeout, mask_images
        self._stacked, self._steps, self._broken = stacked, 0, False
        self._envs: AsyncVectorEnv | SyncVectorEnv
        if processes:
            try:
                self._envs = AsyncVectorEnv(
                    makers, context=context, copy=False, autoreset_mode=AutoresetMode.SAME_STEP
                )
            except (EOFError, ConnectionError) as error:
                raise RunError(
                    f"the processes of {id} could not be started; see their output above. A script that "
                    "starts processes "
                    'must be a file with `if __name__ == "__main__":`. Or leave out --env.processes'
                ) from error
        else:
            self._envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        self.actions = ActionConverter(self._envs.single_action_space, rescale_actions)

    def reset(self, seed: int) -> Observations:
        """Begin an episode in each environment; environment k has the 31-bit seed ``seed + k``."""
        with self._locating_errors("reset"):
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.reset_async(seed=seed % 2**31)
                observations, _ = self._envs.reset_wait(timeout=self._timeout)
            else:
                observations, _ = self._envs.reset(seed=seed % 2**31)
        return self._tensors(observations)

    def step(self, actions: Tensor) -> Step:
        """See `VectorEnv`.

        Raises:
            RolloutError: an environment raised, did not answer in time, or its process has ended.
        """
        self._steps += 1
        with self._locating_errors(f"step {self._steps}"):
            native = self.actions.native(actions)
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.step_async(native)
                observations, rewards, terminated, truncated, infos = self._envs.step_wait(
                    timeout=self._timeout
                )
            else:
                observations, rewards, terminated, truncated, infos = self._envs.step(native)
        success = torch.zeros(len(rewards), dtype=torch.bool)
        final_observations: Observations = {}
        metrics: dict[str, Tensor] = {}
        if "final_obs" in infos:
            final = [values for values in infos["final_obs"] if values is not None]
            columns = {name: np.stack([values[name] for values in final]) for name in final[0]}
            final_observations = self._tensors(columns)
            final_info = infos["final_info"]
            success = torch.from_numpy(final_info["success"].astype(bool))
            metrics = {
                name: torch.from_numpy(value)
                for name, value in final_info.get("metrics", {}).items()
                if not name.startswith("_")
            }
        return Step(
            observations=self._tensors(observations),
            rewards=torch.from_numpy(rewards).float(),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            success=success,
            final_observations=final_observations,
            metrics=metrics,
        )

    def call(self, name: str) -> tuple[Any, ...]:
        """The results of a method of each environment."""
        with self._locating_errors(f"a call of {name}, after step {self._steps}"):
            if isinstance(self._envs, AsyncVectorEnv):
                self._envs.call_async(name)
                return tuple(self._envs.call_wait(timeout=self._timeout))
            return self._envs.call(name)

    @property
    def frames_per_second(self) -> float:
        """Of a video in real time."""
        return float(self._envs.metadata.get("render_fps") or FRAMES_PER_SECOND)

    def take_frames(self) -> Sequence[Sequence[Image]]:
        """See `RenderedVectorEnv`; the makers create environments with `make.KeptFrames`."""
        return self.call("take_frames")

    @property
    def first(self) -> gymnasium.Env[Any, Any]:
        """The first environment, if environments are in this process."""
        assert isinstance(self._envs, SyncVectorEnv)
        return self._envs.envs[0]

    def close(self) -> None:
        """Close the environments; processes that do not answer are killed."""
        if not isinstance(self._envs, AsyncVectorEnv):
            self._envs.close()
            return
        intact = not self._broken and all(process.is_alive() for process in self._envs.processes)
        if not intact:
            for process in self._envs.processes:
                process.kill()
            self._envs._state = AsyncState.DEFAULT  # or it would wait for an answer
        self._envs.close(timeout=self._timeout, terminate=not intact)

    def _tensors(self, arrays: Mapping[str, Any]) -> Observations:
        """Copies, with stacks (E, frame-stack, C, ...) as channels (E, frame-stack * C, ...)."""
        values = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        if self._stacked:
            values = {name: value.flatten(1, 2) for name, value in values.items()}
        if self._mask_images:
            values |= {name: torch.zeros_like(value) for name, value in values.items() if value.ndim == 4}
        return values

    @contextmanager
    def _locating_errors(self, moment: str) -> Iterator[None]:
        """Name the environment that failed, and the step.

        Raises:
            RolloutError: an environment failed.
        """
        try:
            yield
        except multiprocessing.TimeoutError as error:
            assert isinstance(self._envs, AsyncVectorEnv)
            silent = [env for env, pipe in enumerate(self._envs.parent_pipes) if not pipe.poll(0)]
            reason = f"did not answer within {self._timeout:g} s (--env.timeout)"
            raise self._error(silent, moment, reason) from error
        except (EOFError, ConnectionError) as error:
            assert isinstance(self._envs, AsyncVectorEnv)
            for process in self._envs.processes:
                process.join(0.1)
            dead = [env for env, process in enumerate(self._envs.processes) if not process.is_alive()]
            raise self._error(dead, moment, "lost its process, which crashed or was killed") from error
        except Exception as error:  # an environment may raise anything
            if isinstance(self._envs, AsyncVectorEnv):
                failed = [env for env, pipe in enumerate(self._envs.parent_pipes) if pipe is None]
            else:
                notes = [note for note in getattr(error, "__notes__", []) if note.startswith(NOTE)]
                failed = [int(note.removeprefix(NOTE)) for note in notes]
            reason = f"raised {type(error).__name__}: {error}".splitlines()[0]
            raise self._error(failed, moment, reason) from error
        except BaseException:
            self._broken = True  # an answer may be pending
            raise

    def _error(self, envs: Sequence[int], moment: str, reason: str) -> RolloutError:
        self._broken = True
        names = f"environment {', '.join(map(str, envs))}" if envs else "an environment"
        since = "" if moment == "reset" else " since it was opened"
        return RolloutError(f"{names} of {self._id} {reason}, at {moment}{since}")


def shapes_of(space: Space, stacked: bool) -> dict[str, Shape]:
    """Shapes of the observations of `GymVectorEnv`."""
    assert isinstance(space, spaces.Dict)
    shapes = {name: subspace.shape or () for name, subspace in space.items()}
    if stacked:
        return {name: (shape[0] * shape[1], *shape[2:]) for name, shape in shapes.items()}
    return shapes
