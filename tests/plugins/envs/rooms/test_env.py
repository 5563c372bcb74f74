"""The rooms env: its tasks, what decides its images, and the data set that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.rooms.labels import TASKONOMY, make_labels
from sidetune_plugins.envs.rooms.scene import KINDS, Scene, sample_scene
from sidetune_plugins.envs.rooms.shading import render
from sidetune_plugins.envs.rooms.taskonomy_export import write_taskonomy

import sidetune_core
from sidetune_core.api import DataError, OptionError, Order, Task
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load
from sidetune_core.config.resolve import resolve

SMALL = {"num_images": 10, "num_test_images": 4, "image_size": 32, "decoder_width": 16}
WIDE = ("depth_zbuffer", "depth_euclidean", "keypoints2d", "keypoints3d", "edge_texture", "edge_occlusion")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def env() -> Callable[..., Any]:
    cls = load(find(ENV, "rooms"))
    return lambda seed=0, **options: cls(cls.Config(**{**SMALL, **options}), seed)


def batch(task: Task, size: int = 4) -> Any:
    return next(task.train(lambda inputs: inputs["image"], Order(0, size)))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(0, index) for index in range(3)]


def test_twelve_tasks_come_in_the_order_of_the_original_with_the_kind_of_room_for_the_object(
    env: Any,
) -> None:
    tasks = env().tasks()
    assert [task.id for task in tasks] == [
        "curvature",
        "segment-semantic",
        "reshading",
        "keypoints3d",
        "keypoints2d",
        "edge-texture",
        "edge-occlusion",
        "depth-zbuffer",
        "depth-euclidean",
        "normal",
        "class-room",
        "rgb",
    ]
    for task in tasks:
        given = batch(task)
        assert given.inputs["image"].shape == (4, 3, 32, 32)
        loss = task.loss(task.make_head((8, 2, 2)).eval()(torch.zeros(4, 8, 2, 2)), given)
        assert loss.shape == (4,)
        assert loss.isfinite().all()
    kinds = batch(tasks[10], 10)
    assert torch.equal(kinds.targets, kinds.ids % len(KINDS))


def test_test_rooms_depend_on_the_series_alone_and_training_rooms_on_the_seed_too(env: Any) -> None:
    def images(split: str = "train", **options: Any) -> dict[int, bytes]:
        (task,) = env(domains=("rgb",), **options).tasks()
        rows = task._frames.rows[split]
        return {
            int(row): image.numpy().tobytes()
            for row, image in zip(rows, task._frames.stored["rgb"][rows], strict=True)
        }

    assert images() == images()
    assert images("test") == images("test", seed=1)
    assert images(num_images=4).items() <= images().items()
    for other in ({"seed": 1}, {"series": 1}):
        assert set(images(**other).values()).isdisjoint(images().values())
    streams = [
        env(domains=("normal",)),
        env(domains=("rgb",)),
        env(seed=3),
        env(series=1, domains=("normal",)),
        env(image_size=40, domains=("normal",)),
    ]
    for stream in streams:
        stream.tasks()
    assert streams[0].fingerprint() == streams[1].fingerprint() != ""
    assert len({stream.fingerprint() for stream in streams}) == 4
    assert len({stream.data_fingerprint() for stream in streams}) == 5
    assert streams[0].content_fingerprint() == streams[2].content_fingerprint()
    assert streams[0].content_fingerprint() != streams[3].content_fingerprint()


def test_depth_and_curvature_fill_their_range(env: Any) -> None:
    depth, curvature = env(
        domains=(
            "depth_zbuffer",
            "curvature",
        )
    ).tasks()
    given = batch(depth, 10).targets
    metres = 6 * (given[:, :1] + 1)[given[:, 1:] > 0]
    assert 0 < float(metres.min()) < float(metres.median()) < float(metres.max()) < 12
    assert float(metres.max()) > 3
    assert float(batch(curvature, 10).targets[:, :2].abs().amax()) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("normals",)}, "no domain 'normals'"),
        ({"domains": ("class_object",)}, "no domain 'class_object'"),
        (
            {
                "domains": (
                    "normal",
                    "normal",
                )
            },
            "each once",
        ),
        ({"image_size": 60}, "multiple of 8, not 60"),
    ],
)
def test_what_does_not_exist_is_refused(env: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        env(**options)


def test_parts_that_suit_the_env_are_taken_where_none_is_named() -> None:
    components = resolve(sidetune_core.RunSpec(env="rooms")).components
    assert (
        components["base"].plugin.name,
        components["base"].config.weights,
        components["side"].plugin.name,
    ) == (
        "taskonomy",
        "packaged",
        "fcn5",
    )
    components = resolve(
        sidetune_core.RunSpec(env="rooms", base="taskonomy", side="fcn3", learner="sidetune")
    ).components
    assert (components["base"].config.width, components["base"].config.weights) == (64, "none")
    assert components["side"].plugin.name == "fcn3"
    assert "side" not in resolve(sidetune_core.RunSpec(env="rooms", learner="features")).components
    assert resolve(sidetune_core.RunSpec(env="rgbd")).components["base"].config.weights == "packaged"
    assert resolve(sidetune_core.RunSpec(env="digits")).components["base"].plugin.name == "resnet44"


def test_a_run_leaves_pictures(tmp_path: Path) -> None:
    spec = sidetune_core.RunSpec(
        env={
            "name": "rooms",
            "domains": (
                "normal",
                "segment_semantic",
            ),
            **SMALL,
        },
        base={"name": "taskonomy", "width": 4},
        train={"steps": 2, "batch": 4, "device": "cpu"},
    )
    run = sidetune_core.run(spec, tmp_path / "run")
    assert all(0 < value < 10 for value in run.results.rows[-1] if value is not None)
    assert Image.open(tmp_path / "run" / "pictures" / "normal.target.png").size == (4 * 32, 32)


def test_what_is_written_is_what_was_rendered(tmp_path: Path, scenes: list[Scene]) -> None:
    write_taskonomy(tmp_path, {"hall": scenes[:2], "den": scenes[2:]}, 32)
    labels = make_labels(scenes, render(scenes, 32), TASKONOMY)
    folders = {"principal_curvature" if name == "curvature" else name for name in labels} - {
        "mask",
        "class_room",
    }
    assert {path.name for path in tmp_path.iterdir()} == folders
    for folder in folders:
        for building, point, row in (("hall", 0, 0), ("hall", 1, 1), ("den", 0, 2)):
            path = tmp_path / folder / building / f"point_{point}_view_0"
            name = "curvature" if folder == "principal_curvature" else folder
            expected = labels[name][row].numpy()
            if folder == "class_object":
                np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), expected)
                continue
            with Image.open(path.with_suffix(".png")) as image:
                assert image.mode.startswith("I;16") == (folder in WIDE)
                pixels = np.asarray(image)
            assert pixels.shape[:2] == (32, 32)
            planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            np.testing.assert_array_equal(
                planes[: len(expected)] if expected.ndim == 3 else planes[0], expected
            )
    with Image.open(tmp_path / "principal_curvature" / "hall" / "point_0_view_0.png") as image:
        assert set(np.asarray(image)[..., 2].ravel().tolist()) == {127}


@pytest.mark.parametrize("layout", ["sample", "flat"])
def test_one_building_may_be_written_as_the_public_sample_is(
    tmp_path: Path, scenes: list[Scene], layout: Any
) -> None:
    write_taskonomy(tmp_path, {"model": scenes[:1]}, 32, layout)
    folder = tmp_path / "normal" if layout == "sample" else tmp_path
    assert (folder / "point_0_view_0_domain_normal.png").is_file()
    with pytest.raises(ValueError, match="is for one building"):
        write_taskonomy(tmp_path, {"a": scenes[:1], "b": scenes[1:]}, 32, layout)


def test_env_taskonomy_reads_what_is_exported(env: Any, tmp_path: Path) -> None:
    env(export=tmp_path / "data").tasks()
    cls = load(find(ENV, "taskonomy"))
    options = {
        "root": tmp_path / "data",
        "train_buildings": ("train",),
        "test_buildings": ("test",),
        "image_size": 32,
        "decoder_width": 16,
        "cache_dir": tmp_path / "cache",
    }
    ours = {task.id: batch(task, 10) for task in env().tasks()}
    theirs = {task.id: task for task in cls(cls.Config(**options), 0).tasks()}
    assert theirs.keys() - ours.keys() == {"class-object"}
    assert [theirs["normal"].size(split) for split in ("train", "test")] == [10, 4]
    for name in ("normal", "rgb", "segment-semantic", "edge-texture"):
        given, own = batch(theirs[name], 10), ours[name]
        rows, own_rows = given.ids.argsort(), own.ids.argsort()
        assert torch.equal(given.inputs["image"][rows], own.inputs["image"][own_rows])
        channels = slice(None) if given.targets.ndim == 3 else slice(given.targets.shape[1] - 1)
        assert torch.equal(given.targets[rows][:, channels], own.targets[own_rows][:, channels])


def test_a_folder_that_cannot_be_written_is_told(env: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot write rooms into"):
        env(export=tmp_path / "file").tasks()


def test_an_id_is_the_same_image_in_all_tasks(env: Any) -> None:
    stream = env(domains=("normal", "rgb"))
    images: list[dict[int, torch.Tensor]] = []
    for task in stream.tasks():
        given = batch(task, size=10)
        images.append(dict(zip(given.inputs.ids.tolist(), given.inputs["image"], strict=True)))
    first, second = images
    assert stream.shared_ids
    assert len(first) == 10
    assert all(torch.equal(first[number], second[number]) for number in second)
