"""A run for the commands that use trained tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core import RunSpec, run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of digits after two steps, which tests do not change."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    base = {"name": "resnet20", "weights": "none"}
    env = {"name": "digits", "num_tasks": 2}
    run(RunSpec(base=base, env=env, train={"steps": 2, "batch_size": 8}), folder)
    return folder
