"""Frames per second of gathering experience and of learning from it, against what the environments alone give.

    pip install -e '.[rl]' && python benchmarks/rollout_rate.py [--frames 8192] [--worlds CartPole-v1 ...] [--processes]

For each world, 8 environments, 128 steps to a rollout, 4 passes in batches of 256, env ``gym`` with the parts that it comes with and
learner ``scratch``. Columns, all in frames per second by the clock (with ``--cpu``, of this process's time on the processor, which leaves
out VizDoom's engine and processes of environments): ``alone``, one bare environment after the other with random
actions, new episodes included; ``wrapped``, the same actions through our wrappers, as batches of tensors; ``collect``, with the policy
that acts (forward passes, checks, advantages); ``update``, where each frame is learnt from four times; ``all``, the two together.
VizDoom: 160 x 120 pixels, brought to 64 x 64, an action for 4 tics, which counts as one frame.
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

WORLDS = ("CartPole-v1", "MiniGrid-DoorKey-5x5-v0", "VizdoomBasic-v1")
ENVS, ROLLOUT = 8, 128

Clock = Callable[[], float]


def main() -> None:
    """Time every world and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), help="ids of environments")
    parser.add_argument(
        "--frames", type=int, default=8192, help="steps of all environments, a multiple of 1024"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="count time on the processor, where others share it"
    )
    parser.add_argument(
        "--processes", action="store_true", help="give each environment a process of its own, but for 'alone'"
    )
    options = parser.parse_args()
    importlib.import_module(
        "torch._dynamo"
    )  # PyTorch does so at its first optimiser, which is not to be timed
    clock = time.process_time if options.cpu else time.perf_counter
    print(
        f"{options.frames} frames, {ENVS} environments{' in processes' if options.processes else ''}, {os.cpu_count()} cores"
    )
    print(f"{'world':<28}{'alone':>9}{'wrapped':>9}{'collect':>9}{'update':>9}{'all':>9}")
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
    ):  # a bare VizDoom writes files where it is run
        for id in options.vector_env:
            env: dict[str, Any] = {
                "name": "gym",
                "ids": id,
                "envs": ENVS,
                "rollout": ROLLOUT,
                "frames": options.frames,
            }
            env |= {"processes": options.processes, "episodes": 1}
            if id.startswith("Vizdoom"):
                arguments = {"frame_skip": 4, "screen_resolution": "RES_160X120"}
                env |= {"arguments": json.dumps(arguments), "inputs": "image", "size": 64}
            seconds = [*_vector_env(env, clock), *_run(env, clock)]
            print(
                f"{id:<28}"
                + "".join(f"{options.frames / taken:>9.0f}" for taken in [*seconds, sum(seconds[2:])])
            )


def _vector_env(env: dict[str, Any], clock: Clock) -> list[float]:
    """Seconds of the bare environments and of the wrapped ones."""
    import gymnasium
    import torch

    from sidetune_core.config import resolve

    composition = resolve.resolve(sidetune_core.RunSpec(env=env, learner="scratch"))
    stream = composition.components["env"].cls(composition.components["env"].config, 0)
    vector_env = stream.tasks()[0].make_vector_env(ENVS)
    bare = gymnasium.make(env["ids"], **json.loads(env.get("arguments", "{}")))
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
    given = torch.tensor(actions, dtype=torch.float32).view(-1, ENVS, 1)
    began = clock()
    for some in given:
        vector_env.step(some)
    wrapped = clock() - began
    vector_env.close()
    return [alone, wrapped]


def _run(env: dict[str, Any], clock: Clock) -> list[float]:
    """Seconds of collection and of updates in a run."""
    from sidetune_core.rl.collector import RolloutCollector
    from sidetune_core.training import loop, steps

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
        mock.patch.object(loop, "train", timed("train", steps.train)),
        mock.patch.object(RolloutCollector, "collect", timed("collect", RolloutCollector.collect)),
        tempfile.TemporaryDirectory() as folder,
    ):
        sidetune_core.run(spec, f"{folder}/run", save_every="none")
    return [spent["collect"], spent["train"] - spent["collect"]]


if __name__ == "__main__":
    main()
