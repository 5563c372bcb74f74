"""Frames per second of collecting rollouts and of PPO updates, compared with the environments alone.

    pip install -e '.[rl]'
    python benchmarks/rollout_rate.py [--frames 8192] [--ids CartPole-v1 ...] [--processes]

For each environment id: 8 environments, rollouts of 128 steps, 4 epochs in batches of 256, env ``gym`` with
its default components, learner ``scratch``. Columns, in frames per second of wall-clock time (with ``--cpu``,
of processor time of this process, without VizDoom's engine and environments in processes):

- ``alone``: bare environments one after another with random actions, resets included;
- ``wrapped``: the same actions through our wrappers, as batches of tensors;
- ``collect``: with the policy (forward passes, checks, advantages);
- ``update``: four epochs on each rollout;
- ``all``: both together.

VizDoom renders 160 x 120 pixels, resized to 64 x 64; an action lasts 4 tics, which count as one frame.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import sidetune_core

IDS = ("CartPole-v1", "MiniGrid-DoorKey-5x5-v0", "VizdoomBasic-v1")
ENVS, ROLLOUT = 8, 128

Clock = Callable[[], float]


def main() -> None:
    """Time every environment and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", nargs="+", default=list(IDS), help="ids of environments")
    parser.add_argument(
        "--frames", type=int, default=8192, help="steps over all environments, a multiple of 1024"
    )
    parser.add_argument("--cpu", action="store_true", help="measure processor time, on a shared machine")
    parser.add_argument(
        "--processes", action="store_true", help="one process per environment, except in 'alone'"
    )
    options = parser.parse_args()
    importlib.import_module("torch._dynamo")  # PyTorch imports it with its first optimiser; not to be timed
    clock = time.process_time if options.cpu else time.perf_counter
    processes = " in processes" if options.processes else ""
    print(f"{options.frames} frames, {ENVS} environments{processes}, {os.cpu_count()} cores")
    print(f"{'environment':<28}{'alone':>9}{'wrapped':>9}{'collect':>9}{'update':>9}{'all':>9}")
    # a bare VizDoom writes files into the working directory
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for id in options.ids:
            env: dict[str, Any] = {
                "name": "gym",
                "ids": [id],
                "num_envs": ENVS,
                "ppo": {"rollout_length": ROLLOUT},
                "frames": options.frames,
            }
            env |= {"processes": options.processes, "eval_episodes": 1}
            if id.startswith("Vizdoom"):
                arguments = {"frame_skip": 4, "screen_resolution": "RES_160X120"}
                env |= {"arguments": json.dumps(arguments), "inputs": ["image"], "image_size": 64}
            seconds = [*_vector_env(env, clock), *_run(env, clock)]
            seconds.append(sum(seconds[2:]))
            print(f"{id:<28}" + "".join(f"{options.frames / duration:>9.0f}" for duration in seconds))


def _vector_env(env: dict[str, Any], clock: Clock) -> list[float]:
    """Seconds of the bare environments and of the wrapped ones."""
    import gymnasium
    import torch

    from sidetune_core.config import resolve

    component = resolve.resolve(sidetune_core.RunSpec(env=env, learner="scratch")).components["env"]
    stream = component.cls(component.config, 0)
    vector_env = stream.tasks()[0].make_vector_env(ENVS)
    bare = gymnasium.make(env["ids"][0], **json.loads(env.get("arguments", "{}")))
    actions = [bare.action_space.sample() for _ in range(env["frames"])]
    bare.reset(seed=0)
    began = clock()
    for action in actions:
        _, _, terminated, truncated, _ = bare.step(action)
        if terminated or truncated:
            bare.reset()
    alone = clock() - began
    bare.close()
    vector_env.reset(0)
    batches = torch.tensor(actions, dtype=torch.float32).view(-1, ENVS, 1)
    began = clock()
    for batch in batches:
        vector_env.step(batch)
    wrapped = clock() - began
    vector_env.close()
    return [alone, wrapped]


def _run(env: dict[str, Any], clock: Clock) -> list[float]:
    """Seconds of collection and of updates in a run."""
    from sidetune_core.rl.collector import RolloutCollector
    from sidetune_core.training.steps import StageTraining

    spent: dict[str, float] = {"train": 0.0, "collect": 0.0}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            began = clock()
            try:
                return function(*arguments)
            finally:
                spent[name] += clock() - began

        return call

    spec = sidetune_core.RunSpec(learner="scratch", env=env)
    with (
        mock.patch.object(StageTraining, "run", timed("train", StageTraining.run)),
        mock.patch.object(RolloutCollector, "collect", timed("collect", RolloutCollector.collect)),
        tempfile.TemporaryDirectory() as folder,
    ):
        sidetune_core.run(spec, f"{folder}/run", save_every="none")
    return [spent["collect"], spent["train"] - spent["collect"]]


if __name__ == "__main__":
    main()
