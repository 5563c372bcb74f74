"""Frames of a depth camera: labels, masks, splits, and faults of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sidetune_core.api import DataError, OptionError, Order
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load

Write = Callable[..., Path]


def make(root: Path | None, seed: int = 0, **options: Any) -> Any:
    cls = load(find(ENV, "rgbd"))
    return cls(cls.Config(**{"root": root, "image_size": 16, "decoder_width": 16, **options}), seed)


def batch(task: Any, size: int = 4) -> Any:
    return next(task.train(lambda inputs: inputs["image"], Order(0, size)))


def test_depth_is_linear_up_to_the_maximum_and_masked_where_it_was_not_measured(
    write_frames: Write, tmp_path: Path
) -> None:
    root = write_frames(tmp_path / "frames")
    depth, normal = make(root, image_size=32).tasks()
    targets = batch(depth).targets
    assert targets.shape == (4, 2, 32, 32)
    assert float(targets[0, 0, 5, 5]) == pytest.approx(2 * 2 / 5 - 1, abs=1e-4)
    assert float(targets[0, 0, 5, 25]) == pytest.approx(2 * 4 / 5 - 1, abs=1e-4)
    valid = targets[0, 1]
    assert valid[0, 0] == 0
    assert valid[5, 5] == 1
    (near,) = make(root, image_size=32, max_depth=3.0, domains=("depth_zbuffer",)).tasks()
    assert not batch(near).targets[0, 1, :, 16:].any()
    walls = batch(normal).targets
    torch.testing.assert_close(walls[0, :3, 10, 10], torch.tensor([0.0, 0.0, -1.0]), rtol=0, atol=0.01)
    assert walls[0, 3, 10, 10] == 1
    assert walls[0, 3, 0, 0] == 0


def test_distances_are_longer_beside_the_axis(write_frames: Write, tmp_path: Path) -> None:
    root = write_frames(tmp_path / "frames")
    (task,) = make(root, image_size=32, max_depth=10.0, domains=("depth_euclidean",)).tasks()
    found = (batch(task).targets[0, 0] + 1) * 5
    offset = (31.5 - 16) / 32
    assert float(found[31, 0]) == pytest.approx(2 * (1 + 2 * offset**2) ** 0.5, abs=1e-3)


def test_the_last_frames_are_the_test_split_and_few_are_drawn_by_the_seed(
    write_frames: Write, tmp_path: Path
) -> None:
    root = write_frames(tmp_path / "frames")
    tasks = {
        (count, seed): make(root, seed, max_images=count).tasks()[0]
        for count, seed in ((4, 0), (8, 0), (8, 1))
    }
    drawn = {key: set(batch(task, key[0]).ids.tolist()) for key, task in tasks.items()}
    assert drawn[4, 0] < drawn[8, 0]
    assert drawn[8, 0] != drawn[8, 1]
    assert max(drawn[8, 1]) < 18
    assert tasks[4, 0].size("test") == 6
    assert make(root).tasks()[0].size("train") == 18


def test_a_folder_and_an_archive_of_it_are_the_same(write_frames: Write, tmp_path: Path) -> None:
    root = write_frames(tmp_path / "frames", count=4)
    rgb = np.stack([np.asarray(Image.open(path)) for path in sorted(root.glob("*-rgb.png"))])
    depth = np.stack([np.asarray(Image.open(path)) for path in sorted(root.glob("*-depth.png"))])
    np.savez(tmp_path / "frames.npz", rgb=rgb, depth_mm=depth, K=np.load(root / "cameras.npz")["K"])
    one, other = make(root), make(None, archive=tmp_path / "frames.npz")
    for a, b in zip(one.tasks(), other.tasks(), strict=True):
        assert torch.equal(batch(a).targets, batch(b).targets)
        assert torch.equal(batch(a).inputs["image"], batch(b).inputs["image"])
    assert one.fingerprint() == other.fingerprint()
    assert one.data_parts() == other.data_parts()
    assert [part.count for part in one.data_parts().values()] == [4]


def test_faults_are_reported(write_frames: Write, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs frames: pass --env.root"):
        make(None)
    with pytest.raises(OptionError, match="available: depth_zbuffer, depth_euclidean, normal"):
        make(tmp_path, domains=("depth",))
    with pytest.raises(DataError, match="no file or folder"):
        make(tmp_path / "nothing").tasks()
    root = write_frames(tmp_path / "frames", count=4)
    with pytest.raises(DataError, match="smaller than --env.image-size 64"):
        make(root, image_size=64).tasks()
    depth = root / "002-depth.png"
    good = depth.read_bytes()
    depth.write_bytes(good[:60])
    with pytest.raises(DataError, match=r"002-depth\.png cannot be read as an image"):
        make(root).tasks()
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(depth)
    with pytest.raises(DataError, match=r"002-depth\.png has mode L; expected a 16-bit grey image"):
        make(root).tasks()
    depth.unlink()
    with pytest.raises(DataError, match="1 frames lack the colour or depth image, such as 002"):
        make(root).tasks()


def test_real_frames_have_depth_and_normals_that_agree(shared_data: Path) -> None:
    depth, normal = make(shared_data / "rgbd", image_size=64).tasks()
    assert (depth.size("train"), depth.size("test")) == (90, 30)
    one, other = batch(depth, 16), batch(normal, 16)
    assert float(one.targets[:, 1].mean()) > 0.5
    assert float(other.targets[:, 3].mean()) > 0.5
    valid = other.targets[:, 3] > 0
    lengths = other.targets[:, :3].norm(dim=1)[valid]
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=0.02)
    assert float((other.targets[:, 2][valid] < 0.1).float().mean()) > 0.99  # they face the camera
