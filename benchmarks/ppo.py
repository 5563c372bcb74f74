"""PPO: ours compared with stable-baselines3's, with equal environment, hyperparameters, networks, evaluation.

    pip install stable-baselines3 && python benchmarks/ppo.py [--id CartPole-v1] [--frames N] [--seeds 3]

Both train an actor and a critic with PPO on 8 environments in one process: rollouts of 128 steps, Adam with
eps 1e-5, clip range 0.2, gradient norm at most 0.5, and the settings of the environment (`SETTINGS`).
stable-baselines3 has 2 x 64 tanh units for each of actor and critic, and so have ours (base ``mlp`` without
layers, two layers in each half of the head), initialised orthogonally. Variants take turns, each run in its
own process; training is timed without imports and evaluation. The most likely actions are then evaluated over
100 episodes. Printed: median seconds of wall-clock and processor time (the latter for shared machines), the
ratio of each to stable-baselines3's, frames per second of processor time, the mean return of each seed, and
the steps per second of the environments alone with random actions.
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

import attrs

import sidetune_core

ENVS, ROLLOUT, EPISODES = 8, 128, 100
VARIANTS = ("ours", "sb3")


@attrs.frozen
class Settings:
    """Of PPO in one environment."""

    frames: int = 51_200
    """Steps over all environments."""
    epochs: int = 4
    batch_size: int = 256
    lr: float = 3e-4
    gamma: float = 0.99


SETTINGS = {
    "CartPole-v1": Settings(),
    "Acrobot-v1": Settings(102_400, batch_size=64),
    "Pendulum-v1": Settings(102_400, epochs=10, batch_size=64, lr=1e-3, gamma=0.9),
}
"""Acrobot has more and smaller batches; those of Pendulum are of RL Baselines3 Zoo (Raffin, 2020), except for
the 4 environments with rollouts of 1,024 steps that it has."""


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--id",
        default="CartPole-v1",
        help="an environment with a vector observation; those without settings of their own have CartPole's",
    )
    parser.add_argument("--frames", type=int, help="steps over all environments, a multiple of 1024")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", choices=(*VARIANTS, "raw"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.settings = SETTINGS.get(options.id, Settings())
    options.frames = options.frames or options.settings.frames
    if options.child:
        importlib.import_module(
            "torch._dynamo"
        )  # PyTorch imports it with its first optimiser; not to be timed
        print(json.dumps({"ours": _ours, "sb3": _sb3, "raw": _raw}[options.child](options)))
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    results: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            results[variant].append(_child(variant, seed))
            print(f"# {variant}, seed {seed}: {results[variant][-1]}", file=sys.stderr)
    _, seconds, _ = _child("raw", 0)
    rate = options.frames / seconds
    job = f"{options.id}, {options.frames} frames, {options.seeds} seeds"
    print(f"{job}; environments alone: {rate:.0f} frames/s")
    print(f"{'variant':<8}{'clock s':>9}{'ratio':>7}{'CPU s':>8}{'ratio':>7}{'frames/s':>10}  returns")
    medians = {
        variant: [statistics.median(column) for column in zip(*runs, strict=True)]
        for variant, runs in results.items()
    }
    for variant, runs in results.items():
        clock, cpu, _ = medians[variant]
        ratios = clock / medians["sb3"][0], cpu / medians["sb3"][1]
        returns = " ".join(f"{run[2]:.1f}" for run in runs)
        times = f"{clock:>9.1f}{ratios[0]:>7.2f}{cpu:>8.1f}{ratios[1]:>7.2f}"
        print(f"{variant:<8}{times}{options.frames / cpu:>10.0f}  {returns}")


def _child(variant: str, seed: int) -> list[float]:
    """Seconds of wall-clock and processor time, and the mean return."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]


class _Stopwatch:
    """Seconds of wall-clock and processor time between `start` and `stop`."""

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds = [time.perf_counter() - self._began[0], time.process_time() - self._began[1]]


def _ours(options: argparse.Namespace) -> list[float]:
    from sidetune_core.training.steps import StageTraining

    watch, train, settings = _Stopwatch(), StageTraining.run, options.settings

    def timed(training: StageTraining, trainable: Any) -> int:
        watch.start()
        steps = train(training, trainable)
        watch.stop()
        return steps

    env = {
        "name": "gym",
        "ids": [options.id],
        "num_envs": ENVS,
        "ppo": {
            "rollout_length": ROLLOUT,
            "epochs": settings.epochs,
            "hidden_layers": 2,
            "gamma": settings.gamma,
        },
        "frames": options.frames,
    }
    train_options: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "schedule": "constant",
        "adam_eps": 1e-5,
        "grad_clip": 0.5,
    }
    spec = sidetune_core.RunSpec(
        base={"name": "mlp", "layers": 0},
        learner={"name": "scratch", "norm": False},
        env={**env, "eval_episodes": EPISODES},
        train=train_options,
        seed=options.seed,
    )
    with mock.patch.object(StageTraining, "run", timed), tempfile.TemporaryDirectory() as folder:
        result = sidetune_core.run(spec, f"{folder}/run").results.rows[0][0]
    assert result is not None
    return [*watch.seconds, result]


def _sb3(options: argparse.Namespace) -> list[float]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    settings = options.settings
    model = PPO(
        "MlpPolicy",
        make_vec_env(options.id, ENVS, seed=options.seed),
        learning_rate=settings.lr,
        gamma=settings.gamma,
        n_steps=ROLLOUT,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        seed=options.seed,
        device="cpu",
    )
    watch = _Stopwatch()
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
    watch = _Stopwatch()
    watch.start()
    for action in actions:
        envs.step(action)
    watch.stop()
    return [*watch.seconds, 0.0]


if __name__ == "__main__":
    main()
