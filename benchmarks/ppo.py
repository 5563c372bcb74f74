"""PPO: ours beside stable-baselines3's, with the same environment, hyper-parameters, networks and evaluation.

    pip install stable-baselines3 && python benchmarks/ppo.py [--id CartPole-v1] [--frames 51200] [--seeds 3]

Both train an actor and a critic with PPO on 8 environments in one process: 128 steps to a rollout, 4 passes in batches of 256, Adam
3e-4 (eps 1e-5), clip 0.2, gradients of norm 0.5 at most. stable-baselines3 has a network of 2 x 64 tanh units for
each of actor and critic, and so have ours (base ``mlp`` without layers, and two in each half of the head), with orthogonal weights.
Each run is a process of its own, and they take turns; training is timed without imports and evaluation. The most likely actions are
then evaluated over 100 episodes. Printed: median seconds, by the clock and of the processor (which counts where others share it), the
ratio of each to stable-baselines3's, frames per second of the processor, and the mean return of each seed; and how many steps the
environments alone make with random actions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import sidetune_core

ENVS, ROLLOUT, BATCH, PASSES, EPISODES = 8, 128, 256, 4, 100
VARIANTS = ("ours", "sb3")


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--id", default="CartPole-v1", help="an environment with a vector observation and discrete actions"
    )
    parser.add_argument(
        "--frames", type=int, default=51_200, help="steps of all environments, a multiple of 1024"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", choices=(*VARIANTS, "raw"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        importlib.import_module(
            "torch._dynamo"
        )  # PyTorch does so at its first optimiser, which is not to be timed
        print(json.dumps({"ours": _ours, "sb3": _sb3, "raw": _raw}[options.child](options)))
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    found: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            found[variant].append(_child(variant, seed))
            print(f"# {variant}, seed {seed}: {found[variant][-1]}", file=sys.stderr)
    _, took, _ = _child("raw", 0)
    print(
        f"{options.id}, {options.frames} frames, {options.seeds} seeds; environments alone: {options.frames / took:.0f} frames/s"
    )
    print(f"{'variant':<8}{'clock s':>9}{'ratio':>7}{'CPU s':>8}{'ratio':>7}{'frames/s':>10}  returns")
    medians = {
        variant: [statistics.median(column) for column in zip(*runs, strict=True)]
        for variant, runs in found.items()
    }
    for variant, runs in found.items():
        clock, cpu, _ = medians[variant]
        ratios = clock / medians["sb3"][0], cpu / medians["sb3"][1]
        returns = " ".join(f"{one[2]:.1f}" for one in runs)
        print(
            f"{variant:<8}{clock:>9.1f}{ratios[0]:>7.2f}{cpu:>8.1f}{ratios[1]:>7.2f}{options.frames / cpu:>10.0f}  {returns}"
        )


def _child(variant: str, seed: int) -> list[float]:
    """Seconds by the clock and of the processor, and the mean return."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in json.loads(done.stdout.splitlines()[-1])]


class _Watch:
    """Seconds between `start` and `stop`, by the clock and of the processor."""

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds = [time.perf_counter() - self._began[0], time.process_time() - self._began[1]]


def _ours(options: argparse.Namespace) -> list[float]:
    from sidetune_core.training import loop, steps

    watch, train = _Watch(), steps.train

    def timed(*arguments: Any) -> int:
        watch.start()
        steps = train(*arguments)
        watch.stop()
        return steps

    env = {
        "name": "gym",
        "ids": options.id,
        "envs": ENVS,
        "rollout": ROLLOUT,
        "passes": PASSES,
        "frames": options.frames,
    }
    train_options: dict[str, Any] = {
        "batch": BATCH,
        "lr": 3e-4,
        "schedule": "constant",
        "eps": 1e-5,
        "clip": 0.5,
    }
    spec = sidetune_core.RunSpec(
        base={"name": "mlp", "layers": 0},
        learner={"name": "scratch", "norm": False},
        env={**env, "episodes": EPISODES, "layers": 2},
        train=train_options,
        seed=options.seed,
    )
    with mock.patch.object(loop, "train", timed), tempfile.TemporaryDirectory() as folder:
        result = sidetune_core.run(spec, f"{folder}/run").results.rows[0][0]
    assert result is not None
    return [*watch.seconds, result]


def _sb3(options: argparse.Namespace) -> list[float]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    model = PPO(
        "MlpPolicy",
        make_vec_env(options.id, ENVS, seed=options.seed),
        n_steps=ROLLOUT,
        batch_size=BATCH,
        n_epochs=PASSES,
        seed=options.seed,
        device="cpu",
    )
    watch = _Watch()
    watch.start()
    model.learn(options.frames)
    watch.stop()
    mean, _ = evaluate_policy(model, make_vec_env(options.id, ENVS, seed=1000), EPISODES)
    return [*watch.seconds, float(mean)]


def _raw(options: argparse.Namespace) -> list[float]:
    import gymnasium
    from gymnasium.vector import SyncVectorEnv

    envs = SyncVectorEnv([lambda: gymnasium.make(options.id)] * ENVS)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(options.frames // ENVS)]
    watch = _Watch()
    watch.start()
    for action in actions:
        envs.step(action)
    watch.stop()
    return [*watch.seconds, 0.0]


if __name__ == "__main__":
    main()
