"""RGB and depth frames of VizDoom for pretraining a base; env ``rgbd`` reads them.

    pip install -e '.[rl]' && python benchmarks/vizdoom_frames.py --out frames.npz [--frames 4000] [--seed 0]

Random actions, each repeated for several steps so that the player moves around, in all scenarios in turn; an
action lasts 4 tics, and every fourth step is recorded, at 160 x 120 pixels. ``rgb`` (N, 120, 160, 3) uint8;
``depth_mm`` (N, 120, 160) uint16, 100 times the engine's depth, an integer up to 255; ``K`` for a field of
view of 90 degrees. Frames are in the order of recording, so the last ones, which ``rgbd`` tests on, are of
separate episodes of all scenarios.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

SCENARIOS = (
    "VizdoomMyWayHome-v1",
    "VizdoomHealthGathering-v1",
    "VizdoomBasic-v1",
    "VizdoomTakeCover-v1",
    "VizdoomDefendCenter-v1",
)
WIDTH, HEIGHT = 160, 120
RECORD_EVERY, MEAN_REPEATS, FRAMES_PER_TURN = 4, 6, 100
"""Steps between recorded frames, mean number of steps of an action, and consecutive frames of a scenario."""


def main() -> None:
    """Record frames and write them to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="an .npz file")
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), help="ids of environments")
    options = parser.parse_args()
    out = options.out.resolve()
    importlib.import_module("vizdoom.gymnasium_wrapper")
    random = np.random.default_rng(options.seed)
    colors: list[Any] = []
    depths: list[Any] = []
    # the engine writes its settings into the working directory
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        envs = [_make(id) for id in options.scenarios]
        turn = 0
        while len(colors) < options.frames:
            count = min(FRAMES_PER_TURN, options.frames - len(colors))
            for observation in _walk(envs[turn % len(envs)], random, count):
                colors.append(observation["screen"].copy())
                depths.append(observation["depth"][:, :, 0].astype(np.uint16) * 100)
            turn += 1
        for env in envs:
            env.close()
    focal = WIDTH / 2
    intrinsics = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    np.savez_compressed(out, rgb=np.stack(colors), depth_mm=np.stack(depths), K=intrinsics)
    print(f"{len(colors)} frames in {options.out}, {out.stat().st_size / 2**20:.0f} MiB")


def _make(id: str) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(id, frame_skip=4, screen_resolution="RES_160X120", depth_buffer_enabled=True)


def _walk(env: gymnasium.Env[Any, Any], random: np.random.Generator, count: int) -> list[Any]:
    """Recorded observations of consecutive episodes."""
    env.reset(seed=int(random.integers(2**31)))
    observations: list[Any] = []
    action, step = int(random.integers(env.action_space.n)), 0  # type: ignore[attr-defined]
    while len(observations) < count:
        if random.random() < 1 / MEAN_REPEATS:
            action = int(random.integers(env.action_space.n))  # type: ignore[attr-defined]
        observation, _, terminated, truncated, _ = env.step(action)
        step += 1
        if terminated or truncated:
            env.reset()
        elif step % RECORD_EVERY == 0:
            observations.append(observation)
    return observations


if __name__ == "__main__":
    main()
