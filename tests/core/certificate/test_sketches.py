from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidetune_core import RunSpec, run
from sidetune_core.certificate import replay_checks
from sidetune_core.certificate.verify import verify
from sidetune_core.storage.run_folder import open_run


def test_a_run_of_policies_is_verified_without_its_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env: dict[str, Any] = {
        "name": "gym",
        "ids": ["CartPole-v1"],
        "num_envs": 2,
        "eval_episodes": 2,
        "frames": 64,
        "ppo": {"rollout_length": 32, "epochs": 1},
    }
    run(RunSpec(env=env, learner="scratch", base="mlp", train={"batch_size": 32}), tmp_path / "run")
    monkeypatch.setattr(replay_checks, "open_tasks", lambda parts: pytest.fail("an environment was made"))
    assert verify(open_run(tmp_path / "run")).problems == ()
