"""Properties of a Gymnasium environment, found by creating it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import gymnasium

from sidetune_core.api import DataError, InputShapes, OptionError
from sidetune_core.rl import Policy

from .actions import policy_of
from .babyai_bot import is_babyai
from .make import EnvSpec, as_frame, is_minigrid, is_vizdoom, library_versions, make, make_plain
from .masks import Source, mask_source
from .observations import ObservationConverter
from .parts import Part, Space
from .vector_env import shapes_of

BOT = "bot"

INSTALL_RL = "pip install 'sidetune[rl]'"

INSTALL = {
    "minigrid": INSTALL_RL,
    "vizdoom": INSTALL_RL,
    "ale_py": INSTALL_RL,
    "shimmy": "pip install 'shimmy[gym-v26]', or 'shimmy[gym-v21]' for environments whose step returns four "
    "values; both need NumPy 1, so install them in a separate environment without constraints.txt",
}
"""By missing module."""


@attrs.frozen
class EnvInfo:
    """Properties of an environment, found by creating it once."""

    inputs: InputShapes
    units: Mapping[str, float]
    """Divisors of the inputs, by name."""
    left_out: Sequence[Part]
    """Parts of the observation that cannot be inputs."""
    policy: Policy
    experts: tuple[str, ...]
    versions: Mapping[str, str]
    raw_observations: Space
    """Of the plain environment."""
    actions: Space
    time_limit: int | None
    """Steps after which an episode is truncated; None if no limit is registered."""
    mask_source: Source
    """Where it has a mask of valid actions; empty if it has none."""
    limits_itself: bool
    """Whether the environment ends long episodes by itself."""


def inspect_env(spec: EnvSpec, masks: bool) -> EnvInfo:
    """Input shapes, policy and experts of an environment.

    Args:
        spec: of the environment.
        masks: whether to look for a mask of valid actions, by a reset.

    Raises:
        DataError: it is not registered or cannot be created.
    """
    try:
        env: gymnasium.Env[Any, Any] = make(spec)
    except Exception as error:  # an environment may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in INSTALL:
            raise DataError(f"environment {spec.id} needs '{missing}': {INSTALL[missing]}") from error
        raise DataError(
            f"environment {spec.id} cannot be created: {type(error).__name__}: {error}"
        ) from error
    try:
        converter: ObservationConverter = env.get_wrapper_attr("converter")
        experts = (BOT,) if is_babyai(env) else ()
        is_symbols = is_minigrid(spec.id) and spec.view == "symbols"
        return EnvInfo(
            inputs=shapes_of(env.observation_space, spec.frame_stack > 1),
            units=dict.fromkeys(converter.units, 1.0) if is_symbols else converter.units,
            left_out=converter.left_out,
            policy=policy_of(env.action_space, spec.id),
            experts=experts,
            versions=library_versions(env),
            raw_observations=env.get_wrapper_attr("raw_space"),
            actions=env.action_space,
            time_limit=_time_limit(env),
            mask_source=mask_source(env) if masks else "",
            limits_itself=is_minigrid(spec.id) or is_vizdoom(spec.id) or _has_limit(env.unwrapped),
        )
    finally:
        env.close()


def _time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """The registered limit in steps; that of Atari games is one in frames of the console."""
    if env.spec is None:
        return None
    frames, skip = (env.spec.kwargs.get(key) for key in ("max_num_frames_per_episode", "frameskip"))
    if env.spec.max_episode_steps is None and isinstance(frames, int) and isinstance(skip, int) and frames:
        return -(-frames // skip)
    return env.spec.max_episode_steps


def _has_limit(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment has an attribute by which many libraries bound episodes."""
    limits = (getattr(env, name, None) for name in ("max_steps", "max_episode_steps", "_max_episode_steps"))
    return any(isinstance(limit, int) and limit > 0 for limit in limits)


def check_rendering(spec: EnvSpec) -> None:
    """Check that an environment can be rendered, by doing so once.

    Raises:
        OptionError: it cannot.
    """
    try:
        env = make_plain(spec)
        try:
            if "rgb_array" not in (env.metadata.get("render_modes") or ()):
                raise ValueError("it has no render mode rgb_array")
            env.reset(seed=0)
            as_frame(env.render())
        finally:
            env.close()
    except Exception as error:  # an environment may raise anything
        reason = f"{error}".partition("\n")[0]
        raise OptionError(
            f"environment {spec.id} cannot be rendered, so there is no video: {reason}"
        ) from error
