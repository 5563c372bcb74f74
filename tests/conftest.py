"""What several tests share: real data where it is at hand, and small made-up data elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeArchive = Callable[..., Path]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: ``$SIDETUNE_TEST_DATA``, or ``../shared/data`` beside the checkout."""
    given = os.environ.get("SIDETUNE_TEST_DATA")
    folder = Path(given).expanduser() if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "unpack.py").is_file():
        pytest.skip(f"no real data at {folder} (set SIDETUNE_TEST_DATA to its folder)")
    return folder


@pytest.fixture(scope="session")
def cifar100_archive(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-100 as one ``.npz``."""
    return _unpack(shared_data, "cifar100", tmp_path_factory)


@pytest.fixture(scope="session")
def cifar10_archive(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-10 as one ``.npz``."""
    return _unpack(shared_data, "cifar10", tmp_path_factory)


@pytest.fixture
def make_image_archive(tmp_path: Path) -> MakeArchive:
    """Writes ``images.npz``: 4 classes of 32 x 32 images told apart by their colour, 20 to train on and 8 to test on of each.

    Keyword arguments replace arrays by key; None leaves one out.
    """

    def make(**changes: Any) -> Path:
        arrays = {**_coloured("train", 20), **_coloured("test", 8), "names": np.array(["blue", "green", "red", "white"]), **changes}
        path = tmp_path / "images.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return make


@pytest.fixture
def image_archive(make_image_archive: MakeArchive) -> Path:
    """A small archive that is as it should be."""
    return make_image_archive()


def _coloured(split: str, each: int) -> dict[str, Any]:
    colours = np.array([[40, 40, 200], [40, 200, 40], [200, 40, 40], [200, 200, 200]])
    labels = np.tile(np.arange(4), each)
    noise = np.random.default_rng(each).integers(-30, 31, (len(labels), 32, 32, 3))
    return {f"x_{split}": (colours[labels][:, None, None] + noise).astype(np.uint8), f"y_{split}": labels}


def _unpack(shared_data: Path, name: str, factory: pytest.TempPathFactory) -> Path:
    out = factory.mktemp(name)
    subprocess.run([sys.executable, str(shared_data / "unpack.py"), name, str(out)], check=True)
    return out / f"{name}.npz"
