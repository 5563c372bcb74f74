"""Images in an archive, and the behaviour of all image envs: tasks, held-out images, augmentation."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sidetune_core import api
from sidetune_core.config import kinds, registry

Images = registry.load(registry.find(kinds.ENV, "images"))
MakeArchive = Callable[..., Path]


def stream(seed: int = 0, **options: Any) -> api.TaskStream:
    made: api.TaskStream = Images(Images.Config(**options), seed)
    return made


def read(**options: Any) -> Any:
    return Images(Images.Config(**options), 0).read()


def batch_of(task: api.Task, size: int = 16) -> api.Batch:
    def predict(_: api.Inputs) -> torch.Tensor:
        raise AssertionError("not needed")

    return next(islice(task.train(predict, api.Order(0, size)), 1))


def fails_to_read(match: str, **options: Any) -> str:
    """The message of the DataError, which is one paragraph."""
    with pytest.raises(api.DataError, match=match) as caught:
        stream(**options).tasks()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Where images come from


def test_neither_archive_nor_folder_is_an_error_that_names_both() -> None:
    with pytest.raises(api.OptionError, match=r"pass --env.root DIR, --env.table FILE.csv or --env\.archive"):
        stream()


def test_archive_and_folder_at_once_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(api.OptionError, match="both are given"):
        stream(archive=tmp_path, root=(tmp_path,))


# Tasks


def test_all_classes_are_one_task(image_archive: Path) -> None:
    assert [(task.id, task.title) for task in stream(archive=image_archive).tasks()] == [
        ("t0", "blue to white")
    ]


def test_classes_can_be_cut_into_tasks(image_archive: Path) -> None:
    tasks = stream(archive=image_archive, classes_per_task=2).tasks()
    assert [(task.id, task.title) for task in tasks] == [("t0", "blue, green"), ("t1", "red, white")]


def test_the_last_task_has_the_rest_of_the_classes(image_archive: Path) -> None:
    made, lines = stream(archive=image_archive, classes_per_task=3), []
    made.info = lines.append
    assert [task.title for task in made.tasks()] == ["blue, green, red", "white"]
    assert "4 classes in tasks of 3: the last task has only 1" in lines


def test_the_user_orders_and_picks_classes(image_archive: Path) -> None:
    tasks = stream(archive=image_archive, tasks="white, blue|red").tasks()
    assert [task.title for task in tasks] == ["white, blue", "red"]
    assert torch.bincount(batch_of(tasks[0], 40).targets).tolist() == [20, 20]


def test_an_order_and_a_number_of_classes_exclude_each_other(image_archive: Path) -> None:
    with pytest.raises(api.OptionError, match="leave out --env.classes-per-task"):
        stream(archive=image_archive, tasks="white,blue", classes_per_task=2)


def test_only_the_first_tasks_if_asked_for(image_archive: Path) -> None:
    assert [
        task.title for task in stream(archive=image_archive, classes_per_task=2, num_tasks=1).tasks()
    ] == ["blue, green"]


def test_asking_for_more_tasks_than_there_are_gives_them_all(image_archive: Path) -> None:
    assert len(stream(archive=image_archive, classes_per_task=2, num_tasks=99).tasks()) == 2


def partition(archive: Path, seed: int, **options: Any) -> list[str]:
    return [
        task.title
        for task in stream(seed, archive=archive, classes_per_task=2, partition="random", **options).tasks()
    ]


def test_a_random_partition_depends_on_the_seed(image_archive: Path) -> None:
    assert len({tuple(partition(image_archive, seed)) for seed in range(8)}) > 1


def test_a_random_partition_depends_on_nothing_else(image_archive: Path) -> None:
    first = partition(image_archive, 5)
    torch.manual_seed(1)
    random.seed(1)
    assert partition(image_archive, 5, augment="crop-flip", val_fraction=0.2, image_size=16) == first
    assert partition(image_archive, 5, num_tasks=1) == first[:1]


def test_a_random_partition_has_every_class_once(image_archive: Path) -> None:
    assert sorted(", ".join(partition(image_archive, 3)).split(", ")) == ["blue", "green", "red", "white"]


def test_inputs_are_between_0_and_1(image_archive: Path) -> None:
    (task,) = stream(archive=image_archive).tasks()
    image = batch_of(task).inputs["image"]
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.1 < 0.8 < image.max() <= 1


# Held-out images


def ids_of(made: api.TaskStream, split: str) -> list[int]:
    seen: list[int] = []

    def predict(inputs: api.Inputs) -> torch.Tensor:
        assert inputs.ids is not None
        seen.extend(inputs.ids.tolist())
        return torch.zeros(len(inputs.ids), 4)

    made.tasks()[0].evaluate(predict, split)
    return seen


def test_no_images_are_held_out_unless_asked_for(image_archive: Path) -> None:
    (task,) = stream(archive=image_archive).tasks()
    assert task.splits == ("test",)


def test_held_out_images_are_a_fraction_of_each_class(image_archive: Path) -> None:
    examples = Images(Images.Config(archive=image_archive, val_fraction=0.25), 0)._examples(
        read(archive=image_archive)
    )
    assert [torch.bincount(examples.labels[split]).tolist() for split in ("train", "val", "test")] == [
        [15] * 4,
        [5] * 4,
        [8] * 4,
    ]


def test_held_out_images_are_not_trained_on(image_archive: Path) -> None:
    data = read(archive=image_archive)
    examples = Images(Images.Config(archive=image_archive, val_fraction=0.25), 0)._examples(data)
    both = torch.cat([examples.inputs["train"], examples.inputs["val"]])
    assert len(torch.unique(both.flatten(1), dim=0)) == len(both) == len(data.images["train"])


def test_held_out_images_depend_on_the_seed(image_archive: Path) -> None:
    fingerprints = []
    for seed in (0, 0, 1):
        made = stream(seed, archive=image_archive, val_fraction=0.25)
        made.tasks()
        fingerprints.append(made.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_small_fraction_holds_one_image_of_each_class_out(image_archive: Path) -> None:
    assert len(ids_of(stream(archive=image_archive, val_fraction=0.001), "val")) == 4


def test_holding_out_of_a_single_image_is_an_error(make_image_archive: MakeArchive) -> None:
    few = make_image_archive(x_train=np.zeros((4, 32, 32), np.uint8), y_train=np.arange(4))
    fails_to_read("class 'blue' has a single image", archive=few, val_fraction=0.5)


# Augmentation


def test_augmentation_keeps_shape_and_type(image_archive: Path) -> None:
    (task,) = stream(archive=image_archive, augment="crop-flip").tasks()
    image = batch_of(task).inputs["image"]
    assert (image.shape, image.dtype) == ((16, 3, 32, 32), torch.float32)


def test_each_augmented_image_is_a_shift_or_a_flipped_shift(make_image_archive: MakeArchive) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (8, 32, 32, 3)).astype(np.uint8)
    archive = make_image_archive(x_train=pixels, y_train=np.arange(8) % 4)
    (task,) = stream(archive=archive, augment="crop-flip").tasks()
    batch = batch_of(task, 8)
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = set()
    for number, image in zip(batch.ids.tolist(), batch.inputs["image"], strict=True):
        found = (image * 255).round().byte().permute(1, 2, 0).numpy()
        matching = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(
                found, padded[number, top : top + 32, left : left + 32][:, :: -1 if flip else 1]
            )
        ]
        assert len(matching) == 1
        shifts.add(matching[0])
    assert len(shifts) > 4  # images of one batch are changed independently
    assert {flip for _, _, flip in shifts} == {False, True}


# Archives


def test_grey_images_are_repeated_over_three_channels(make_image_archive: MakeArchive) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (4, 32, 32)).astype(np.uint8)
    images = read(archive=make_image_archive(x_test=grey[..., None], y_test=np.arange(4))).images["test"]
    assert torch.equal(images, torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1))


def test_colours_stay_in_their_order(image_archive: Path) -> None:
    data = read(archive=image_archive)
    assert (
        data.images["test"][data.labels["test"] == 2].float().mean((0, 2, 3)).argmax() == 0
    )  # class 2 is red


def test_classes_without_names_are_numbered(make_image_archive: MakeArchive) -> None:
    assert read(archive=make_image_archive(names=None)).names == ("class 0", "class 1", "class 2", "class 3")


def test_other_keys_are_passed_over(make_image_archive: MakeArchive) -> None:
    assert (
        read(archive=make_image_archive(extra=np.array([{"an": "object"}], dtype=object))).names[0] == "blue"
    )


def test_images_of_another_size_are_brought_to_it(image_archive: Path) -> None:
    made = stream(archive=image_archive, image_size=48)
    assert made.inputs == {"image": (3, 48, 48)}
    assert batch_of(made.tasks()[0]).inputs["image"].shape == (16, 3, 48, 48)


def test_splits_may_differ_in_size(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(x_test=np.zeros((8, 40, 60, 3), np.uint8), y_test=np.arange(8) % 4)
    assert {images.shape[2:] for images in read(archive=archive).images.values()} == {(32, 32)}


def test_resizing_equals_pillows(make_image_archive: MakeArchive) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 50, 50, 3)).astype(np.uint8)
    images = read(archive=make_image_archive(x_test=pixels, y_test=np.arange(4)), image_size=20).images[
        "test"
    ]
    for ours, source in zip(images, pixels, strict=True):
        theirs = np.asarray(Image.fromarray(source).resize((20, 20), Image.Resampling.BILINEAR))
        assert (
            np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs.astype(int)).max() <= 1
        )  # Pillow computes with whole numbers


def test_a_missing_archive_is_an_error(tmp_path: Path) -> None:
    fails_to_read(r"no file .*none\.npz \(--env\.archive\)", archive=tmp_path / "none.npz")


def test_a_folder_as_archive_is_an_error(tmp_path: Path) -> None:
    fails_to_read("no file", archive=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_file_that_is_no_archive_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.npz").write_bytes(content)
    fails_to_read(r"odd\.npz is not an \.npz archive", archive=tmp_path / "odd.npz")


def test_half_an_archive_is_an_error(image_archive: Path) -> None:
    image_archive.write_bytes(image_archive.read_bytes()[: image_archive.stat().st_size // 2])
    fails_to_read(r"images\.npz is not an \.npz archive, or is truncated", archive=image_archive)


def test_a_changed_byte_is_an_error(image_archive: Path) -> None:
    content = bytearray(image_archive.read_bytes())
    content[len(content) // 3] ^= 0xFF
    image_archive.write_bytes(content)
    fails_to_read(r"images\.npz: x_train cannot be read: Bad CRC", archive=image_archive)


def test_a_damaged_compressed_archive_is_an_error(image_archive: Path) -> None:
    with np.load(image_archive) as archive:
        np.savez_compressed(image_archive.with_name("small.npz"), **archive)
    small = image_archive.with_name("small.npz")
    content = bytearray(small.read_bytes())
    content[1000:1400] = bytes(400)
    small.write_bytes(content)
    fails_to_read(r"small\.npz: x_train cannot be read", archive=small)


def test_a_zip_of_other_things_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(key, "text")
    fails_to_read(r"odd\.npz: x_train is not an array", archive=tmp_path / "odd.npz")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'shape': (3",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 999999999), }",
        "import os",
        "",
    ],
    ids=["cut off", "absurd length", "code", "empty"],
)
def test_a_damaged_array_is_an_error(header: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(
                f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            )
    fails_to_read(r"odd\.npz: x_train cannot be read", archive=tmp_path / "odd.npz")


def test_a_zip_of_a_later_version_is_an_error(image_archive: Path) -> None:
    content = bytearray(image_archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 202
    image_archive.write_bytes(content)
    fails_to_read(
        r"images\.npz cannot be read as an \.npz archive: zip file version 20\.2", archive=image_archive
    )


@pytest.mark.parametrize("key", ["x_train", "y_test", "names"])
def test_pickled_objects_are_refused(key: str, make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(**{key: np.array([{"an": "object"}, None], dtype=object)})
    fails_to_read(rf"images\.npz: {key} holds pickled Python objects", archive=archive)


def test_missing_keys_are_an_error(make_image_archive: MakeArchive) -> None:
    message = fails_to_read(
        r"images\.npz: missing keys x_test, y_test", archive=make_image_archive(x_test=None, y_test=None)
    )
    assert "it has 'names', 'x_train', 'y_train'" in message


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 32, 32, 3), np.float32),
        np.zeros((8, 32, 32, 4), np.uint8),
        np.zeros((8, 3, 32, 32), np.uint8),
        np.zeros((8, 32), np.uint8),
        np.zeros((8, 0, 32, 3), np.uint8),
    ],
    ids=["float", "four channels", "channels first", "two axes", "no pixels"],
)
def test_images_of_another_type_or_shape_are_an_error(images: Any, make_image_archive: MakeArchive) -> None:
    fails_to_read(
        r"images\.npz: x_test must be uint8 of shape",
        archive=make_image_archive(x_test=images, y_test=np.arange(8) % 4),
    )


@pytest.mark.parametrize(
    "labels",
    [np.zeros(7, int), np.zeros((8, 1), int), np.zeros(8), np.zeros(8, bool), np.array(["blue"] * 8)],
    ids=["too few", "two axes", "float", "bool", "text"],
)
def test_labels_of_another_type_or_number_are_an_error(labels: Any, make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(x_test=np.zeros((8, 32, 32, 3), np.uint8), y_test=labels)
    fails_to_read(r"images\.npz: y_test must be integers, one for each of 8 images", archive=archive)


@pytest.mark.parametrize("wrong", [-1, 4, 2**40])
def test_labels_beyond_the_names_are_an_error(wrong: int, make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(
        x_test=np.zeros((8, 32, 32, 3), np.uint8), y_test=np.array([0, 1, 2, 3, 0, 1, 2, wrong])
    )
    low, high = min(wrong, 0), max(wrong, 3)
    fails_to_read(
        rf"images\.npz: labels of split 'test' range from {low} to {high}, expected 0 to 3 or 1 to 4",
        archive=archive,
    )


def test_labels_without_names_are_any_integers_in_numeric_order(make_image_archive: MakeArchive) -> None:
    values = np.array([7, -3, 2**60, 100])
    archive = make_image_archive(
        y_train=values[np.arange(80) % 4], y_test=values[np.arange(32) % 4], names=None
    )
    data = read(archive=archive)
    assert data.names == ("class -3", "class 7", "class 100", f"class {2**60}")
    assert data.labels["test"][:4].tolist() == [1, 0, 3, 2]


def test_named_labels_may_begin_at_1(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(y_train=np.arange(80) % 4 + 1, y_test=np.arange(32) % 4 + 1)
    assert read(archive=archive).labels["train"][:4].tolist() == [0, 1, 2, 3]


def test_labels_in_the_test_split_only_are_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(y_test=np.arange(32) % 6, names=None)
    fails_to_read("2 of 6 labels of split 'test' are not in split 'train': 4, 5", archive=archive)


def test_a_class_without_test_images_is_trained_on(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(
        x_test=np.zeros((8, 32, 32, 3), np.uint8), y_test=np.array([0, 1, 3, 0, 1, 3, 0, 1])
    )
    made, lines = stream(archive=archive), []
    made.info = lines.append
    assert made.tasks()[0].outputs.size == 4
    assert "no test image of red: trained on, not tested" in lines


def test_an_archive_that_would_be_too_large_is_enlarged_when_it_is_read(image_archive: Path) -> None:
    """To the same inputs, with and without augmentation."""
    for augment in ("none", "crop-flip"):
        options = {"archive": image_archive, "image_size": 40, "augment": augment}
        small, large = (batch_of(stream(**options, memory=limit).tasks()[0]) for limit in (0.0, 1.0))
        assert torch.equal(small.inputs["image"], large.inputs["image"])


def test_an_empty_split_is_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(x_test=np.zeros((0, 32, 32, 3), np.uint8), y_test=np.zeros(0, int))
    fails_to_read(r"images\.npz: no images in split 'test'", archive=archive)


def test_fewer_names_than_classes_are_an_error(make_image_archive: MakeArchive) -> None:
    fails_to_read(
        "range from 0 to 3, expected 0 to 2 or 1 to 3 .one for each of the 3 names",
        archive=make_image_archive(names=np.array(["a", "b", "c"])),
    )


def test_more_names_than_classes_are_an_error(make_image_archive: MakeArchive) -> None:
    fails_to_read(
        "no image of class 'e' in split 'train'", archive=make_image_archive(names=np.array(list("abcde")))
    )


@pytest.mark.parametrize(
    "names",
    [np.arange(4), np.array("blue"), np.array([["a", "b"], ["c", "d"]]), np.array([b"a", b"b", b"c", b"d"])],
)
def test_names_that_are_no_list_of_text_are_an_error(names: Any, make_image_archive: MakeArchive) -> None:
    fails_to_read(
        r"images\.npz: names must be text of shape \(classes,\)", archive=make_image_archive(names=names)
    )


def test_a_single_class_is_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(y_train=np.zeros(80, int), y_test=np.zeros(32, int), names=None)
    fails_to_read(r"images\.npz: only one class", archive=archive)


def test_no_damage_of_an_archive_escapes_as_another_error(image_archive: Path) -> None:
    whole = image_archive.read_bytes()
    chance = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        place = chance.choice(
            [chance.randrange(400), len(content) - 1 - chance.randrange(1000), chance.randrange(len(content))]
        )
        content[place] ^= 1 << chance.randrange(8)
        image_archive.write_bytes(content)
        with suppress(api.DataError):  # a changed date, say, does no harm
            stream(archive=image_archive).tasks()
