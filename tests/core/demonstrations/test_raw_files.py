"""Trajectories of other tools: their keys, and where episodes end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sidetune_core.demonstrations.raw_files import open_raw
from sidetune_core.errors import DataError

LENGTHS = (3, 2)
OBSERVATIONS = np.arange(10.0).reshape(5, 2)
ACTIONS = np.array([0, 1, 1, 0, 1])
ENDS = np.array([0, 0, 1, 0, 1])


def write(path: Path, columns: Mapping[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **columns)
        return path
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file[name] = value
    return path


@pytest.mark.parametrize(
    "columns",
    [
        {"observations": OBSERVATIONS, "actions": ACTIONS, "terminals": ENDS, "timeouts": 0 * ENDS},
        {"obs": OBSERVATIONS, "acts": ACTIONS, "dones": ENDS},
        {"obs": OBSERVATIONS, "actions": ACTIONS[:, None], "episode_starts": [1, 0, 0, 1, 0]},
        {"states": OBSERVATIONS, "actions": ACTIONS, "lengths": LENGTHS},
        {"data/demo_0/obs": OBSERVATIONS[:3], "data/demo_0/actions": ACTIONS[:3]}
        | {"data/demo_1/obs": OBSERVATIONS[3:], "data/demo_1/actions": ACTIONS[3:]},
    ],
    ids=["d4rl", "dones", "starts", "lengths", "groups"],
)
@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_common_keys_are_recognised(tmp_path: Path, suffix: str, columns: dict[str, Any]) -> None:
    raw = open_raw(write(tmp_path / f"file{suffix}", columns))
    episodes = list(raw.read(0, raw.episodes))
    assert [episode.length for episode in episodes] == [*LENGTHS]
    np.testing.assert_array_equal(np.concatenate([one.observations for one in episodes]), OBSERVATIONS)
    np.testing.assert_array_equal(np.concatenate([one.actions.reshape(-1) for one in episodes]), ACTIONS)
    assert [one.length for one in raw.read(1, 1)] == [LENGTHS[1]]


def test_groups_are_nested_dictionaries_and_numbers_order_episodes(tmp_path: Path) -> None:
    columns = {}
    for number in range(11):
        group = f"episode_{number}"
        columns[f"{group}/observations/arm/position"] = np.full((3, 2), number)
        columns[f"{group}/observations/goal"] = np.zeros((3, 1))
        columns[f"{group}/actions"] = np.zeros((2, 1))
        columns[f"{group}/terminations"] = [False, True]
    episodes = list(open_raw(write(tmp_path / "file.h5", columns)).read(0, 11))
    assert [one.observation(1)["arm"]["position"].tolist() for one in episodes] == [[k, k] for k in range(11)]
    assert all(one.has_final and one.terminated and not one.truncated for one in episodes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"observations": OBSERVATIONS}, r"file\.npz has no actions: .* Its keys: observations \(5, 2\)"),
        ({"actions": ACTIONS, "dones": ENDS}, "has no observations: expected a key 'observations'"),
        ({"obs": OBSERVATIONS, "actions": ACTIONS}, "does not say where episodes end: .* or 'lengths'"),
        ({"obs": OBSERVATIONS, "actions": ACTIONS, "lengths": [3, 3]}, "sum of 6, and there are 5 actions"),
        (
            {"obs": OBSERVATIONS[:4], "actions": ACTIONS, "dones": ENDS},
            r"'obs' has shape \(4, 2\), and there are 5 actions",
        ),
        (
            {"obs": np.array([None, 1], object), "actions": ACTIONS},
            "array of Python objects, whose loading would run code",
        ),
    ],
)
def test_faulty_files_are_refused_with_their_keys_and_shapes(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_raw(write(tmp_path / "file.npz", columns))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.npz").write_text("no archive")
    (tmp_path / "file.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"numpy\.savez"):
        open_raw(tmp_path / "file.npz")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        open_raw(tmp_path / "file.h5")
