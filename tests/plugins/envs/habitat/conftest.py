"""Tests of env habitat need habitat-lab, which needs other versions of libraries than the rest: see
``.ci/run``."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOMS = Path(__file__).parents[4] / "examples" / "habitat-rooms"
INSTALLED = importlib.util.find_spec("habitat") is not None
if INSTALLED:
    sys.path[:0] = [str(ROOMS), str(Path(__file__).parent / "modules")]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*sys.path[:2], os.environ.get("PYTHONPATH", "")]
    )  # for processes

WriteEpisodes = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def habitat() -> None:
    if not INSTALLED:
        pytest.skip(
            "habitat-lab is not installed: pip install -e '.[habitat]' pytest -c constraints-habitat.txt, "
            "in a separate environment"
        )


@pytest.fixture
def write_episodes(tmp_path: Path) -> WriteEpisodes:
    """Writes a plan and a PointNav-v1 dataset: episodes are (start, goal, heading in degrees to the left of
    north)."""

    def write(
        plan: str,
        train: Sequence[tuple[Any, Any, float]],
        val: Sequence[tuple[Any, Any, float]] | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        (tmp_path / "scenes").mkdir(exist_ok=True)
        (tmp_path / "scenes" / "plan.txt").write_text(plan)
        for split, episodes in (("train", train), ("val", train if val is None else val)):
            rows = [_episode(number, *episode) for number, episode in enumerate(episodes)]
            (tmp_path / split).mkdir(exist_ok=True)
            with gzip.open(tmp_path / split / f"{split}.json.gz", "wt") as file:
                json.dump({"episodes": rows}, file)
        sensors = [
            f"habitat.simulator.agents.main_agent.sim_sensors.{name}_sensor" for name in ("rgb", "depth")
        ]
        values = {
            "habitat.simulator.type": "Rooms-v0",
            "habitat.simulator.turn_angle": 90,
            "habitat.dataset.data_path": f"{tmp_path}/{{split}}/{{split}}.json.gz",
            "habitat.dataset.scenes_dir": tmp_path / "scenes",
            **{f"{sensor}.{side}": 16 for sensor in sensors for side in ("width", "height")},
            **overrides,
        }
        quoted = [
            f"{name}='{value}'" if "{" in str(value) else f"{name}={value}" for name, value in values.items()
        ]
        return {"config": "pointnav_gibson.yaml", "overrides": quoted, "imports": ["habitat_rooms"]}

    return write


def _episode(number: int, start: Sequence[float], goal: Sequence[float], heading: float) -> dict[str, Any]:
    half = math.radians(heading) / 2
    return {
        "episode_id": str(number),
        "scene_id": "plan.txt",
        "start_position": [start[0], 0.0, start[1]],
        "start_rotation": [0.0, math.sin(half), 0.0, math.cos(half)],
        "goals": [{"position": [goal[0], 0.0, goal[1]]}],
    }
