"""Reads trajectories from files of other tools: .npz, HDF5, and the data sets of Minari."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from sidetune_core.demonstrations.minari_ids import INSTALL, METADATA, data_folder
from sidetune_core.demonstrations.raw import Columns, RawEpisode, episodes_of
from sidetune_core.errors import DataError

HDF5 = (".hdf5", ".h5", ".hdf")
SUFFIXES = (".npz", *HDF5)


@attrs.frozen
class RecordedEnv:
    """The environment that a file names, by its Gymnasium id."""

    id: str
    arguments: Mapping[str, Any]
    max_episode_steps: int | None


@attrs.frozen
class RawFile:
    """A file, or the folder of a data set, with trajectories."""

    path: Path
    episodes: int
    env: RecordedEnv | None
    """None where it names none."""
    _columns: Columns | None = None

    def read(self, first: int, count: int) -> Iterator[RawEpisode]:
        """`count` episodes from index `first`.

        Raises:
            DataError: they cannot be read.
        """
        if self._columns is not None:
            return islice(episodes_of(self._columns, self.path), first, first + count)
        return _minari_episodes(self.path, first, count)


def is_raw(path: Path) -> bool:
    """Whether a path is a file or folder that `open_raw` reads."""
    return path.suffix.lower() in SUFFIXES or data_folder(path) is not None


def open_raw(path: Path) -> RawFile:
    """A file ``.npz`` or HDF5, or the folder of a data set of Minari.

    A path that does not exist is looked up in Minari's folder of data sets too, as its id
    (``D4RL/door/human-v2``).

    Raises:
        DataError: it cannot be read, or a library is missing.
    """
    if folder := data_folder(path):
        return _open_minari(folder)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    columns = _read_hdf5(path) if path.suffix.lower() in HDF5 else _read_npz(path)
    return RawFile(path, sum(1 for _ in episodes_of(columns, path)), None, columns)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path} cannot be read: {error}") from error
        raise DataError(
            f"{path} has an array of Python objects, whose loading would run code. Save one array for each "
            "key: numpy.savez(file, observations=..., actions=..., terminations=..., truncations=...)"
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a file of numpy.savez: {error}") from error


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} needs 'h5py': {INSTALL}") from error
    columns: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim:
            columns[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file: {error}") from error
    return columns


def _open_minari(folder: Path) -> RawFile:
    try:
        metadata = json.loads((folder / METADATA).read_text())
        spec = json.loads(metadata["env_spec"]) if metadata.get("env_spec") else None
        env = None if spec is None else RecordedEnv(spec["id"], spec["kwargs"], spec["max_episode_steps"])
        return RawFile(folder, int(metadata["total_episodes"]), env)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / METADATA} is not that of a Minari data set: {type(error).__name__} {error}"
        ) from error


def _minari_episodes(folder: Path, first: int, count: int) -> Iterator[RawEpisode]:
    try:
        import minari
    except ImportError as error:
        raise DataError(f"{folder} is a data set of Minari, which needs 'minari': {INSTALL}") from error
    try:
        if "observation_space" not in (metadata := json.loads((folder / METADATA).read_text())):
            raise ValueError(f"no observation_space in {METADATA}; it has {', '.join(metadata)}")
        dataset = minari.MinariDataset(folder)
        for index in range(first, first + count):
            yield _minari_episode(dataset[index], index)
    except (OSError, ValueError, LookupError, TypeError, AssertionError, ImportError) as error:
        raise DataError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def _minari_episode(episode: Any, index: int) -> RawEpisode:
    return RawEpisode(
        name=f"episode {index}",
        observations=episode.observations,
        actions=np.asarray(episode.actions),
        rewards=np.asarray(episode.rewards),
        terminated=bool(episode.terminations[-1]),
        truncated=bool(episode.truncations[-1]),
    )
