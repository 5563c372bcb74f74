"""Env imitation on files of other tools, and their policies as experts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from sidetune_plugins.envs.gymnasium.actions import ActionConverter
from stable_baselines3 import PPO

import sidetune_core
from sidetune_core import demonstrations
from sidetune_core.api import Order
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.errors import DataError, OptionError, RunError, UntrustedCode

Imitation: Any = registry.load(registry.find(ENV, "imitation"))
CARTPOLE = "CartPole-v1"


def stream(root: Path, **options: Any) -> Any:
    values = {"root": [str(root)], "val_trajectories": 1, "eval_episodes": 2, "num_envs": 2, **options}
    return Imitation(structure(Imitation.Config, values, "env 'imitation'"), 0)


def play(seed: int) -> tuple[list[Any], list[int]]:
    """The observations and actions of an episode, of at most 20 steps, that a simple rule plays."""
    env = gymnasium.make(CARTPOLE, max_episode_steps=20)
    observation, _ = env.reset(seed=seed)
    observations, actions, over = [observation], [], False
    while not over:
        actions.append(int(observation[2] + 0.3 * observation[3] > 0))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        over = terminated or truncated
    return observations, actions


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes of CartPole."""
    path = tmp_path_factory.mktemp("npz") / "cartpole.npz"
    episodes = [play(seed) for seed in range(12)]
    np.savez(
        path,
        observations=np.concatenate([observations[:-1] for observations, _ in episodes]),
        actions=np.concatenate([actions for _, actions in episodes]),
        lengths=[len(actions) for _, actions in episodes],
    )
    return path


def test_a_policy_is_trained_on_an_npz_file_and_evaluated_in_the_environment(
    npz: Path, tmp_path: Path
) -> None:
    env = {"name": "imitation", "root": [str(npz)], "of_options": [f"ids={CARTPOLE}"], "val_trajectories": 1}
    env |= {"eval_episodes": 4, "metric": "return"}
    train = {"steps": 60, "batch_size": 32, "lr": 3e-3}
    run = sidetune_core.run(
        sidetune_core.RunSpec(base="mlp", learner="scratch", env=env, train=train), tmp_path / "run"
    )
    before, after = (line["figures"] for line in run.folder.lines("eval.jsonl"))
    assert after["loss"] < 0.8 * before["loss"]
    assert after["return"] > before["return"]


def test_a_minari_data_set_names_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npz: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = [
        EpisodeBuffer(
            observations=np.array(observations),
            actions=np.array(actions),
            rewards=[1.0] * len(actions),
            terminations=[False] * len(actions),
            truncations=[step == len(actions) - 1 for step in range(len(actions))],
        )
        for observations, actions in map(play, range(12))
    ]
    with pytest.warns(UserWarning, match="eval_env"):
        minari.create_dataset_from_buffers(
            "test/cartpole-v0",
            buffers,
            env=gymnasium.make(CARTPOLE, max_episode_steps=20),
            algorithm_name="rule",
        )
    (by_id,), (by_file,) = (
        stream(root, of_options=options).tasks()
        for root, options in ((Path("test/cartpole-v0"), []), (npz, [f"ids={CARTPOLE}"]))
    )
    assert by_id.title == CARTPOLE
    assert by_id.time_limit == 20
    for name in ("observations", "actions", "lengths"):
        torch.testing.assert_close(getattr(by_id._training, name), getattr(by_file._training, name))
    assert by_id._training.rewards.sum() == by_id.training_size()
    assert by_file._training.rewards.isnan().all()  # the file has none


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "does not name its environment: pass its Gymnasium id, --env.of-options ids="),
        (["ids=Acrobot-v1"], r"episode 0: .* has shape \(4,\), expected \(6,\)"),
        (["ids=CartPole-v1,CartPole-v0"], "are of one environment"),
    ],
)
def test_another_environment_is_refused(npz: Path, options: list[str], message: str) -> None:
    with pytest.raises((DataError, OptionError), match=message):
        stream(npz, of_options=options).tasks()


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"val_trajectories": 20}, "hold out fewer: --env.val-trajectories 2$"),
        ({"max_trajectories": 50}, "train on fewer: --env.max-trajectories N$"),
    ],
)
def test_a_file_with_too_few_trajectories_is_not_to_be_recorded(
    npz: Path, options: dict[str, int], remedy: str
) -> None:
    with pytest.raises(DataError, match=remedy):
        stream(npz, of_options=[f"ids={CARTPOLE}"], **options).tasks()


def test_actions_that_the_environment_does_not_have_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", obs=np.zeros((4, 4)), actions=[0, 2, 3, 1], lengths=[2, 2])
    with pytest.raises(
        DataError, match=r"episode 0: 1 of 2 actions are not in Discrete\(2\); the first is 2"
    ):
        stream(tmp_path / "file.npz", of_options=[f"ids={CARTPOLE}"]).tasks()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(3),
        spaces.Box(-2.0, 3.0, (2, 2)),
    ],
)
def test_encoded_actions_are_the_environments_again(space: Any) -> None:
    space.seed(0)
    actions = np.stack([np.asarray(space.sample()) for _ in range(5)])
    for rescaled in (False, True):
        converter = ActionConverter(space, rescaled)
        again = converter.native(converter.encoded(actions, "an action"))
        np.testing.assert_allclose(again, actions, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for CartPole that is not trained."""
    path = tmp_path_factory.mktemp("policy") / "policy.zip"
    PPO("MlpPolicy", CARTPOLE, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}).save(path)
    return path


def test_a_policy_file_is_recorded_with_the_actions_that_its_library_takes(
    policy_file: Path, tmp_path: Path
) -> None:
    env = {"name": "gym", "ids": [CARTPOLE], "time_limit": 20}
    with pytest.raises(UntrustedCode, match="runs code when it is loaded"):
        demonstrations.record_demonstrations(env, tmp_path / "x", 3, expert=policy_file, quiet=True)
    recorded = demonstrations.record_demonstrations(
        env, tmp_path / "x", 3, expert=str(policy_file), quiet=True, trust_local_code=True
    )
    trajectories = recorded.read(0, 3)
    policy = PPO.load(policy_file, device="cpu")
    expected, _ = policy.predict(trajectories.observations["vector"].numpy(), deterministic=True)
    assert trajectories.actions[:, 0].tolist() == expected.tolist()
    assert recorded.manifest.expert == "stable-baselines3"
    assert recorded.manifest.about["policy"] == "ActorCriticPolicy"


def test_a_policy_file_of_another_environment_is_refused(policy_file: Path, tmp_path: Path) -> None:
    env = {"name": "gym", "ids": ["Acrobot-v1"]}
    with pytest.raises(RunError, match=r"acts on Box.*the env gives vector \(6,\)"):
        demonstrations.record_demonstrations(
            env, tmp_path / "x", 3, expert=policy_file, quiet=True, trust_local_code=True
        )
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is not a file that model\.save\(\) of stable-baselines3 wrote"):
        demonstrations.record_demonstrations(env, tmp_path / "y", 3, expert=tmp_path / "no.zip", quiet=True)


def test_a_policy_file_labels_the_steps_of_a_policy_that_was_trained_on_a_file(
    npz: Path, policy_file: Path
) -> None:
    options = {"of_options": [f"ids={CARTPOLE}", "time-limit=9"], "dagger_rounds": 1, "dagger_interval": 1}
    env = Imitation(
        structure(
            Imitation.Config,
            {"root": [str(npz)], "val_trajectories": 1, "expert": str(policy_file), **options},
            "env 'imitation'",
        ),
        0,
    )
    with pytest.raises(UntrustedCode):
        env.tasks()
    env.trust_local_code = True
    (task,) = env.tasks()
    batches = list(islice(task.train(lambda inputs: torch.zeros(len(inputs["vector"]), 2), Order(0, 400)), 2))
    labelled = batches[1].ids >= 2**32
    expected, _ = PPO.load(policy_file, device="cpu").predict(
        batches[1].inputs["vector"][labelled].numpy(), deterministic=True
    )
    assert labelled.sum() > 50
    assert batches[1].targets[labelled][:, 0].tolist() == expected.tolist()
    env.close()
