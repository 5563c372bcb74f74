"""Taskonomy from folders in its public layouts: selection, scaling, masks, and what is wrong with them."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sidetune_core.api import DataError, OptionError, Order, Task
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load

Write = Callable[..., Path]
SEED_ORDER = [
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
    "class-object",
    "rgb",
]
SPLIT = {"train_buildings": ("hanson",), "test_buildings": ("merom",)}


@pytest.fixture
def env(tmp_path: Path) -> Callable[..., Any]:
    """Makes the env, with a cache of its own."""
    cls = load(find(ENV, "taskonomy"))

    def make(root: Path, seed: int = 0, **options: Any) -> Any:
        return cls(
            cls.Config(
                **{
                    "root": root,
                    "image_size": 16,
                    "decoder_width": 16,
                    "cache_dir": tmp_path / "cache",
                    **options,
                }
            ),
            seed,
        )

    return make


def ids(task: Task, split: str) -> set[int]:
    seen: set[int] = set()

    def predict(inputs: Any) -> Tensor:
        seen.update(inputs.ids.tolist())
        return torch.zeros(
            len(inputs.ids), task.make_head((2, 1, 1)).decoder.decoder_output[0].out_channels, 16, 16
        )  # type: ignore[union-attr,index]

    task.evaluate(predict, split)
    return seen


def first(task: Task, size: int = 4) -> Any:
    return next(task.train(lambda inputs: inputs["image"], Order(0, size)))


def test_the_twelve_tasks_come_in_the_order_of_the_original(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    tasks = env(write_taskonomy(tmp_path / "data"), **SPLIT).tasks()
    assert [task.id for task in tasks] == SEED_ORDER
    assert all(task.metric == "loss" and not task.higher_is_better for task in tasks)
    channels = [2, 18, 1, 1, 1, 1, 1, 1, 1, 3, 1000, 3]
    for task, count in zip(tasks, channels, strict=True):
        output = task.make_head((8, 1, 1)).eval()(torch.zeros(4, 8, 1, 1))
        assert output.shape == ((4, 1000) if task.id == "class-object" else (4, count, 16, 16))
        loss = task.loss(output, first(task))
        assert loss.shape == (4,)
        assert loss.isfinite().all()


@pytest.mark.parametrize("order", ["12", "12cls", "12txtr", "12rgb"])
def test_every_order_has_the_same_twelve_tasks(
    env: Any, write_taskonomy: Write, tmp_path: Path, order: str
) -> None:
    root = write_taskonomy(tmp_path / "data", points=1, views=1)
    tasks = [task.id for task in env(root, order=order, **SPLIT).tasks()]
    assert sorted(tasks) == sorted(SEED_ORDER)
    assert (
        tasks[0]
        == {"12": "curvature", "12cls": "class-object", "12txtr": "edge-texture", "12rgb": "rgb"}[order]
    )


@pytest.mark.parametrize("layout", ["sample", "flat"])
def test_one_building_is_split_by_its_points_the_same_way_in_every_run(
    env: Any, write_taskonomy: Write, tmp_path: Path, layout: str
) -> None:
    root = write_taskonomy(
        tmp_path / "model-1", ["model-1"], points=5, views=2, layout=layout, domains=("rgb", "depth_zbuffer")
    )
    (one,), (other,) = (env(root, seed, domains=("depth_zbuffer",)).tasks() for seed in (0, 1))
    assert (one.size("train"), one.size("test")) == (8, 2)
    assert ids(one, "test") == ids(other, "test")
    assert ids(one, "test").isdisjoint(first(one, 8).ids.tolist())


def test_domains_are_scaled_over_the_whole_range_of_their_bits(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", points=1, views=1, size=16)
    folder = root / "depth_euclidean" / "hanson"
    values = np.array([[0, 65535], [32768, 16384]], dtype=np.uint16).repeat(8, 0).repeat(8, 1)
    Image.fromarray(values).save(folder / "point_0_view_0.png")
    tasks = {task.id: task for task in env(root, mask_invalid=False, **SPLIT).tasks()}
    depth = first(tasks["depth-euclidean"], 1).targets[0, 0]
    torch.testing.assert_close(depth[::8, ::8], torch.tensor([[-1.0, 1.0], [0.0, -0.5]]), rtol=0, atol=1e-4)
    pixels = np.asarray(Image.open(root / "normal" / "hanson" / "point_0_view_0.png"))
    normal = first(tasks["normal"], 1).targets[0].permute(1, 2, 0)
    torch.testing.assert_close(normal, torch.from_numpy(pixels / 127.5 - 1).float())
    image = first(tasks["normal"], 1).inputs["image"][0].permute(1, 2, 0)
    colours = np.asarray(Image.open(root / "rgb" / "hanson" / "point_0_view_0.png"))
    torch.testing.assert_close(image, torch.from_numpy(colours / 255).float())
    assert first(tasks["curvature"], 1).targets.shape == (1, 2, 16, 16)
    labels = first(tasks["segment-semantic"], 1).targets
    assert labels.dtype == torch.int64
    stored = np.array(Image.open(root / "segment_semantic" / "hanson" / "point_0_view_0.png"))
    assert torch.equal(labels[0], torch.from_numpy(stored).long())
    probabilities = first(tasks["class-object"], 1).targets
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1))


def test_pixels_near_a_depth_that_was_not_measured_do_not_count(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", size=32)
    (task,) = env(
        root, domains=("normal",), **SPLIT
    ).tasks()  # 4 x 4 pixels of 32 x 32 lack depth, and two around them are left out
    batch = first(task)
    valid = batch.targets[:, 3]
    expected = torch.ones(16, 16)
    expected[:3, :3] = 0  # pixels 1, 3 and 5 of the original are within 4 + 2
    assert torch.equal(valid, expected.expand(4, 16, 16))
    output = batch.targets[:, :3].clone()
    output[:, :, :3, :3] = 99
    assert float(task.loss(output, batch).abs().max()) == 0
    output[:, :, 8, 8] += 1
    torch.testing.assert_close(task.loss(output, batch), torch.full((4,), 1 / 247))


def test_few_images_are_drawn_by_the_seed_and_more_contain_fewer(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", points=8, views=2, domains=("rgb",))
    images = {}
    for count, seed in ((3, 0), (6, 0), (6, 1)):
        (task,) = env(
            root, seed, domains=("rgb",), mask_invalid=False, max_images=count, max_test_images=4, **SPLIT
        ).tasks()
        assert (task.size("train"), task.size("test")) == (count, 4)
        images[count, seed] = {value.numpy().tobytes() for value in first(task, count).inputs["image"]}
    assert images[3, 0] < images[6, 0]
    assert images[6, 0] != images[6, 1]


def test_buildings_come_from_the_table_of_the_data_set(
    env: Any, write_taskonomy: Write, tmp_path: Path, shared_data: Path
) -> None:
    table = shared_data / "taskonomy-splits" / "train_val_test_tiny.csv"
    root = write_taskonomy(tmp_path / "data", ["hanson", "merom", "wiconisco", "ihlen"], domains=("rgb",))
    with pytest.raises(
        DataError, match=r"no images of \d+ buildings, allensville, beechwood, benevolence and \d+ more"
    ):
        env(root, domains=("rgb",), mask_invalid=False, splits_file=table).tasks()
    with pytest.warns(
        UserWarning,
        match=r"0 of 16 views in .* are unusable: no images of \d+ buildings, .*They are skipped",
    ):
        (task,) = env(root, domains=("rgb",), mask_invalid=False, splits_file=table, on_error="skip").tasks()
    assert {split: task.size(split) for split in ("train", *task.splits)} == {"train": 8, "val": 4, "test": 4}


def test_several_buildings_need_a_split(env: Any, write_taskonomy: Write, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"has 2 buildings \(hanson, merom\): assign them to splits"):
        env(
            write_taskonomy(tmp_path / "data", domains=("rgb",)), domains=("rgb",), mask_invalid=False
        ).tasks()
    with pytest.raises(OptionError, match="merom cannot be in two splits"):
        env(
            tmp_path / "data",
            domains=("rgb",),
            mask_invalid=False,
            train_buildings=("hanson", "merom"),
            test_buildings=("merom",),
        ).tasks()


def test_every_fault_is_named_and_counted_before_training(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", points=3)
    (root / "normal" / "hanson" / "point_0_view_0.png").unlink()
    damaged = root / "rgb" / "hanson" / "point_1_view_0.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    small = root / "depth_zbuffer" / "merom" / "point_2_view_1.png"
    Image.fromarray(np.ones((20, 20), dtype=np.uint16)).save(small)
    narrow = root / "depth_zbuffer" / "merom" / "point_0_view_0.png"
    Image.fromarray(np.ones((32, 32), dtype=np.uint8)).save(narrow)
    options = {"domains": ("normal",), **SPLIT}
    with pytest.raises(DataError) as caught:
        env(root, **options).tasks()
    message = str(caught.value)
    assert f"4 of 12 views in {root} are unusable" in message
    assert "1 missing in normal, such as hanson: point_0_view_0" in message
    assert f"1 unusable in rgb, such as {damaged} cannot be read as an image" in message
    assert f"{small} is 20 x 20, the others 32 x 32" in message
    assert f"{narrow} has 8 bits per channel, expected 16" in message
    assert "--env.on-error skip" in message
    with pytest.warns(UserWarning, match=f"4 of 12 views in {root} are unusable"):
        (task,) = env(root, on_error="skip", **options).tasks()
    assert (task.size("train"), task.size("test")) == (4, 4)


def test_a_damaged_vector_and_a_label_too_many_are_reported(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", points=1)
    np.save(root / "class_object" / "hanson" / "point_0_view_0.npy", np.zeros(10))
    with pytest.raises(DataError, match=r"point_0_view_0\.npy is not an array of 1000 finite numbers"):
        env(root, domains=("class_object",), **SPLIT).tasks()
    Image.fromarray(np.full((32, 32), 18, dtype=np.uint8)).save(
        root / "segment_semantic" / "hanson" / "point_0_view_0.png"
    )
    with pytest.raises(
        DataError, match="task 'segment-semantic': label 18 is out of range, expected 0 to 17"
    ):
        env(root, domains=("segment_semantic",), **SPLIT).tasks()


def test_images_are_decoded_once(
    env: Any, write_taskonomy: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_taskonomy(tmp_path / "data", domains=("rgb", "depth_zbuffer"))
    options = {
        "domains": (
            "depth_zbuffer",
            "rgb",
        ),
        **SPLIT,
    }
    once = env(root, **options)
    before = [first(task).targets for task in once.tasks()]
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    again = env(root, **options)
    assert all(torch.equal(one, first(task).targets) for one, task in zip(before, again.tasks(), strict=True))
    assert once.fingerprint() == again.fingerprint()
    monkeypatch.setattr(Image, "open", opened)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(
        root / "rgb" / "hanson" / "point_0_view_0.png"
    )
    changed = env(root, **options)
    changed.tasks()
    assert changed.fingerprint() != once.fingerprint()


def test_the_data_fingerprint_is_that_of_a_copy_and_not_of_other_files(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", domains=("rgb", "normal", "depth_zbuffer"))
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile))
    other = Path(shutil.copytree(root, tmp_path / "other"))
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(
        other / "normal" / "hanson" / "point_0_view_0.png"
    )
    found = []
    for folder in (root, copy, other):
        stream = env(folder, domains=("normal",), **SPLIT)
        stream.tasks()
        found.append((stream.data_fingerprint(), stream.data_parts()))
    assert found[0] == found[1] != found[2]
    assert [name for name, part in found[0][1].items() if part != found[2][1][name]] == ["normal"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "needs the data set: pass --env.root"),
        ({"domains": ("normals",)}, "no domain 'normals'"),
        (
            {
                "domains": (
                    "normal",
                    "normal",
                )
            },
            "each once",
        ),
    ],
)
def test_wrong_options_are_reported_before_any_data_is_read(
    env: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        env(**{"root": tmp_path, **options})


def test_domains_that_are_not_there_are_named(env: Any, write_taskonomy: Write, tmp_path: Path) -> None:
    root = write_taskonomy(tmp_path / "data", domains=("rgb",))
    with pytest.raises(DataError, match="has no images of normal, depth_zbuffer"):
        env(root, domains=("normal",), **SPLIT).tasks()
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        env(tmp_path / "nowhere", domains=("normal",), **SPLIT).tasks()


def test_pictures_show_input_target_prediction_and_error(
    env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    tasks = {task.id: task for task in env(write_taskonomy(tmp_path / "data", size=16), **SPLIT).tasks()}
    for task in tasks.values():
        head = task.make_head((8, 1, 1)).eval()
        pictures = task.visualisations(
            lambda inputs, head=head: head(torch.zeros(len(inputs.ids), 8, 1, 1)).detach()
        )
        assert list(pictures) == ["input", "target", "prediction", "error"]
        for picture in pictures.values():
            assert picture.shape == (3, 16, 64)
            assert float(picture.min()) >= 0
            assert float(picture.max()) <= 1
    normal = tasks["rgb"].visualisations(lambda inputs: 2 * inputs["image"] - 1)  # the answer itself
    mask = normal["error"]
    assert float(mask.max()) < 1e-6


@pytest.mark.parametrize("layout", ["buildings", "omnidata", "components", "archives"])
def test_buildings_are_found_in_the_layouts_of_downloads(
    layout: str, env: Any, write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "t", layout=layout, domains=("rgb", "normal", "depth_zbuffer"))
    (task,) = env(root, domains=("normal",), **SPLIT).tasks()
    assert (task.size("train"), task.size("test")) == (4, 4)


def test_buildings_that_the_original_leaves_out_are_left_out_on_request(shared_data: Path) -> None:
    files = importlib.import_module("sidetune_plugins.envs.dense.taskonomy_files")
    table = files.read_splits(shared_data / "taskonomy-splits" / "train_val_test_fullplus.csv")
    counts = {split: len(files.excluded(names, split, ("original",))) for split, names in table.items()}
    assert counts == {"train": 370, "val": 74, "test": 79}
    assert files.excluded(["a", "hanson"], "test", ("a", "original")) == ["hanson"]


def test_a_split_of_missing_depth_is_refused(env: Any, write_taskonomy: Write, tmp_path: Path) -> None:
    root = write_taskonomy(tmp_path / "t", domains=("rgb", "normal", "depth_zbuffer"))
    for path in (root / "depth_zbuffer" / "merom").iterdir():
        Image.fromarray(np.full((32, 32), 65535, np.uint16)).save(path)
    with pytest.raises(DataError, match="task 'normal': no valid pixel in split 'test'"):
        env(root, domains=("normal",), **SPLIT).tasks()
    shutil.rmtree(root / "depth_zbuffer")
    with pytest.raises(DataError, match="no images of depth_zbuffer.* --env.no-mask-invalid"):
        env(root, domains=("normal",), **SPLIT).tasks()
