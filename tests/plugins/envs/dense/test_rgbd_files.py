"""Depth cameras as people have them: published layouts, formats of depth, and implausible values."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.dense.rgbd_files import read_depth

from sidetune_core.api import DataError, OptionError, Order
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load

SIZE = 32
GIVEN = (32.0, 32.0, 16.0, 16.0)
"""Intrinsics of the colour images."""


def colour(index: int = 0) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def walls(size: int = SIZE, near: int = 2000, far: int = 4000) -> np.ndarray[Any, np.dtype[np.uint16]]:
    depth = np.full((size, size), near, dtype=np.uint16)
    depth[:, size // 2 :] = far
    return depth


def write_exr(path: Path, channels: dict[str, np.ndarray[Any, Any]]) -> None:
    with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, channels) as file:
        file.write(str(path))


def save(path: Path, image: Image.Image | np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".exr":
        write_exr(path, {"Z": np.asarray(image)})
    else:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def make(root: Path, **options: Any) -> Any:
    cls = load(find(ENV, "rgbd"))
    key = "archive" if root.suffix == ".npz" else "root"
    return cls(cls.Config(**{key: root, "image_size": 16, "decoder_width": 16, **options}), 0)


def targets(env: Any) -> torch.Tensor:
    """Of the depth task, in frame 0: depth in metres and the mask, (2, 16, 16)."""
    task = env.tasks()[0]
    values = next(task.train(lambda inputs: inputs["image"], Order(0, task.size("train")))).targets
    metres: torch.Tensor = torch.stack([(values[0, 0] + 1) * 2.5, values[0, 1]])
    return metres


LAYOUTS: dict[str, Callable[[int], tuple[str, str]]] = {
    "scannet": lambda k: (f"color/{k}.jpg", f"depth/{k}.png"),
    "7-scenes": lambda k: (f"frame-{k:06}.color.png", f"frame-{k:06}.depth.png"),
    "nyu": lambda k: (f"kitchen_0001/rgb_{k:05}.jpg", f"kitchen_0001/sync_depth_{k:05}.png"),
    "tum": lambda k: (f"rgb/{1305031102 + k}.175304.png", f"depth/{1305031102 + k}.160407.png"),
    "upper case": lambda k: (f"{k:03}-rgb.JPG", f"{k:03}-depth.PNG"),
    "arrays": lambda k: (f"{k:03}-rgb.png", f"{k:03}-depth.npy"),
    "exr": lambda k: (f"color/{k}.jpg", f"depth/{k}.exr"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_found_in_published_layouts(layout: str, tmp_path: Path) -> None:
    units = 5 if layout == "tum" else 1
    for index in (0, 1, 2, 10):
        colour_name, depth_name = LAYOUTS[layout](index)
        save(tmp_path / colour_name, colour(index))
        depth = (
            walls().astype(np.float32) / 1000 if layout in ("arrays", "exr") else walls() * np.uint16(units)
        )
        save(tmp_path / depth_name, depth)
    env = make(tmp_path, intrinsics=GIVEN, depth_scale=1000.0 * units)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metres = targets(env)
    assert env.data_parts()["frames"].count == 4
    torch.testing.assert_close(
        metres[0, :, [2, 13]], torch.tensor([2.0, 4.0]).expand(16, 2), atol=1e-3, rtol=0
    )
    assert metres[1].all()


def test_the_units_of_tum_are_stated(tmp_path: Path) -> None:
    for index in range(4):
        colour_name, depth_name = LAYOUTS["tum"](index)
        save(tmp_path / colour_name, colour())
        save(tmp_path / depth_name, walls() * np.uint16(5))
    with pytest.raises(
        DataError, match="no intrinsics .* --env.intrinsics FX FY CX CY .*525 525 319.5 239.5"
    ):
        make(tmp_path).tasks()
    with pytest.warns(UserWarning, match="5000 units per metre, not 1000; pass --env.depth-scale 5000"):
        make(tmp_path, intrinsics=GIVEN, max_depth=50.0).tasks()
    with pytest.raises(OptionError, match="has 3 values; expected four"):
        make(tmp_path, intrinsics=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("of_depth", [False, True])
def test_depth_of_another_resolution_has_its_own_intrinsics(of_depth: bool, tmp_path: Path) -> None:
    """A wall seen at an angle: its distance from the camera depends on the intrinsics."""
    for index in range(4):
        save(tmp_path / f"color/{index}.png", colour(index))
        save(tmp_path / f"depth/{index}.png", np.full((SIZE // 2, SIZE // 2), 2000, np.uint16))
    options: dict[str, Any] = {"domains": ("depth_euclidean",)}
    if of_depth:
        save(tmp_path / "intrinsic" / "x.npy", np.zeros(1))
        np.savetxt(tmp_path / "intrinsic" / "intrinsic_depth.txt", np.diag([16.0, 16, 1, 1]) + CENTRE)
    else:
        options["intrinsics"] = GIVEN
    metres = targets(make(tmp_path, **options))[0]
    offset = (15.5 - 8) / 16  # in focal lengths
    assert float(metres[15, 15]) == pytest.approx(2 * (1 + 2 * offset**2) ** 0.5, abs=1e-3)


CENTRE = np.array([[0, 0, 8, 0], [0, 0, 8, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float64)


def test_each_frame_may_have_its_intrinsics(tmp_path: Path) -> None:
    rgb = np.stack([np.asarray(colour(index)) for index in range(4)])
    matrices = np.stack([np.array([[f, 0, 16], [0, f, 16], [0, 0, 1.0]]) for f in (32, 16, 32, 32)])
    depth = np.full((4, SIZE, SIZE), 2.0, np.float32)
    depth[:, 0, 0] = np.nan
    np.savez(tmp_path / "frames.npz", rgb=rgb, depth=depth, K=matrices)
    env = make(tmp_path / "frames.npz", image_size=32, domains=("depth_euclidean",), max_depth=10.0)
    (task,) = env.tasks()
    stored = task._frames.stored["depth_euclidean"].float() / 65535 * 10
    for frame, focal in enumerate((32, 16)):
        offset = 15.5 / focal
        assert float(stored[frame, 0, 31, 31]) == pytest.approx(2 * (1 + 2 * offset**2) ** 0.5, abs=1e-3)
    assert not task._frames.stored["mask"][:, 0, 0, 0].any()


def write(root: Path, depth: Any, intrinsics: tuple[float, ...] = GIVEN) -> Path:
    for index in range(4):
        save(root / f"{index}-rgb.png", colour(index))
        save(root / f"{index}-depth.png", depth)
    fx, fy, cx, cy = intrinsics
    np.savez(root / "cameras.npz", K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    return root


@pytest.mark.parametrize("value", [0, 65535])
def test_frames_without_a_valid_pixel_are_refused(value: int, tmp_path: Path) -> None:
    root = write(tmp_path / "frames", np.full((SIZE, SIZE), value, np.uint16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="task 'depth-zbuffer': no valid pixel in split 'train'"):
            make(root).tasks()


def test_the_fraction_of_valid_pixels_is_printed(tmp_path: Path) -> None:
    depth = walls()
    depth[:, :8] = 0
    env, lines = make(write(tmp_path / "frames", depth)), []
    env.info = lines.append
    env.tasks()
    assert lines[0] == "valid pixels: 75 % of train, 75 % of test (depth-zbuffer, normal)"


@pytest.mark.parametrize(
    ("depth", "intrinsics", "message"),
    [
        (
            walls(),
            (577.0, 577.0, 320.0, 240.0),
            r"principal point \(320.0, 240.0\) is outside of the 32 x 32",
        ),
        (walls(), (1.0, 1.0, 0.5, 0.5), "a focal length of 1 pixels is implausible"),
        (
            walls(near=9000, far=9500),
            GIVEN,
            "100 % of .* beyond 5 m .* --env.depth-scale 5000.*--env.max-depth",
        ),
        (walls(near=2, far=4), GIVEN, "the median depth is 0.003 m.*--env.depth-scale"),
    ],
)
def test_implausible_values_are_warned_about(
    depth: Any, intrinsics: tuple[float, ...], message: str, tmp_path: Path
) -> None:
    env = make(write(tmp_path / "frames", depth, intrinsics), domains=("normal",))
    with pytest.warns(UserWarning, match=message):
        env.tasks()


def test_depth_of_another_aspect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="16 x 32 pixels do not have the aspect ratio .* 32 x 32"):
        make(write(tmp_path / "frames", np.ones((16, 32), np.uint16))).tasks()


def test_the_depth_of_an_exr_file_is_its_channel_z_or_what_all_channels_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "depth.exr"
    metres = np.linspace(0.5, 4, 12, dtype=np.float32).reshape(3, 4)
    for channels in (
        {"Z": metres, "R": 2 * metres, "A": metres + 1},
        {"view.depth.Z": metres, "view.R": 2 * metres},
        {"V": metres},
        {"R": metres, "G": metres, "B": metres},
    ):
        write_exr(path, channels)
        assert np.array_equal(read_depth(path), metres)
    write_exr(path, {"Z": metres.astype(np.float16)})
    assert read_depth(path).dtype == np.float32
    write_exr(path, {"R": metres, "G": 2 * metres})
    with pytest.raises(
        DataError, match="has the channels G, R; expected depth as 'Z', or as the only channel"
    ):
        read_depth(path)
    write_exr(path, {"Z": metres.astype(np.uint32)})
    with pytest.raises(DataError, match=r"has depth \(3, 4\) uint32; expected \(H, W\), floats in metres"):
        read_depth(path)
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match="cannot be read as an OpenEXR image"):
        read_depth(path)
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(DataError, match=r"needs 'OpenEXR': pip install 'sidetune\[exr\]'"):
        read_depth(path)
