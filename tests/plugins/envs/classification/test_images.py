"""Images of your own, and the behaviour of all image envs: archives, folders, tasks, splits."""

from __future__ import annotations

import io
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
    with pytest.raises(api.OptionError, match=r"pass --env.archive .* or --env\.root"):
        stream()


def test_archive_and_folder_at_once_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(api.OptionError, match="both are given"):
        stream(archive=tmp_path, root=tmp_path)


# Tasks


def test_all_classes_are_one_task(image_archive: Path) -> None:
    assert [(task.id, task.title) for task in stream(archive=image_archive).tasks()] == [
        ("t0", "blue to white")
    ]


def test_classes_can_be_cut_into_tasks(image_archive: Path) -> None:
    tasks = stream(archive=image_archive, classes_per_task=2).tasks()
    assert [(task.id, task.title) for task in tasks] == [("t0", "blue, green"), ("t1", "red, white")]


def test_classes_that_cannot_be_cut_so_are_an_error(image_archive: Path) -> None:
    with pytest.raises(api.OptionError, match="possible: 2, 4"):
        stream(archive=image_archive, classes_per_task=3).tasks()


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


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("wrong", [-1, 4, 2**40])
def test_labels_out_of_range_are_an_error(wrong: int, names: bool, make_image_archive: MakeArchive) -> None:
    changes = {} if names else {"names": None}
    archive = make_image_archive(
        x_test=np.zeros((8, 32, 32, 3), np.uint8), y_test=np.array([0, 1, 2, 3, 0, 1, 2, wrong]), **changes
    )
    low, high = min(wrong, 0), max(wrong, 3)
    fails_to_read(
        rf"images\.npz: labels of split 'test' range from {low} to {high}, expected 0 to 3", archive=archive
    )


def test_negative_labels_alone_are_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(y_train=np.full(80, -1), names=None)
    fails_to_read("labels of split 'train' range from -1 to -1, expected 0", archive=archive)


def test_an_absurd_label_is_an_error_and_takes_no_memory(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(y_train=np.array([2**60] + [0] * 79), names=None)
    fails_to_read("no image of class 1 in split 'train'", archive=archive)


def test_an_empty_split_is_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(x_test=np.zeros((0, 32, 32, 3), np.uint8), y_test=np.zeros(0, int))
    fails_to_read(r"images\.npz: no images in split 'test'", archive=archive)


def test_a_class_without_images_is_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(
        x_test=np.zeros((8, 32, 32, 3), np.uint8), y_test=np.array([0, 1, 3, 0, 1, 3, 0, 1])
    )
    fails_to_read(r"images\.npz: no image of class 2 'red' in split 'test'", archive=archive)


def test_fewer_names_than_classes_are_an_error(make_image_archive: MakeArchive) -> None:
    fails_to_read(
        "range from 0 to 3, expected 0 to 2 .one for each of the 3 names",
        archive=make_image_archive(names=np.array(["a", "b", "c"])),
    )


def test_more_names_than_classes_are_an_error(make_image_archive: MakeArchive) -> None:
    fails_to_read("no image of class 4 'e'", archive=make_image_archive(names=np.array(list("abcde"))))


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


# Folders


def write_image(
    path: Path, colour: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (40, 30)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes, six images to train on and three to test on of each."""
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            write_image(tmp_path / "set" / split / "red" / f"{number}.png", (200, 10 * number, 40))
            write_image(tmp_path / "set" / split / "blue" / f"{number}.jpg", (40, 10 * number, 200))
    return tmp_path / "set"


def test_class_folders_sorted_are_the_classes(image_folder: Path) -> None:
    assert read(root=image_folder).names == ("blue", "red")


def test_a_folder_has_its_images_with_their_labels(image_folder: Path) -> None:
    data = read(root=image_folder)
    assert torch.bincount(data.labels["train"]).tolist() == [6, 6]
    assert torch.bincount(data.labels["test"]).tolist() == [3, 3]
    for label, channel in ((0, 2), (1, 0)):
        assert data.images["test"][data.labels["test"] == label].float().mean((0, 2, 3)).argmax() == channel


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "PNG", "JPG"])
def test_it_reads_the_usual_formats(suffix: str, image_folder: Path) -> None:
    write_image(image_folder / "train" / "red" / f"more.{suffix}")
    assert len(read(root=image_folder).labels["train"]) == 13


def test_hidden_files_and_other_suffixes_are_passed_over(image_folder: Path) -> None:
    (image_folder / "train" / "red" / "notes.txt").write_text("not an image")
    (image_folder / "train" / "red" / "._0.png").write_text("not an image either")
    (image_folder / "train" / ".cache").mkdir()
    assert len(read(root=image_folder).labels["train"]) == 12


def test_images_are_cut_to_the_middle_square(image_folder: Path) -> None:
    """Left and right quarters are black: of an image twice as wide as high, only the middle is seen."""
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 200
    Image.fromarray(wide).save(image_folder / "test" / "red" / "0.png")
    data = read(root=image_folder)
    assert (data.images["test"][data.labels["test"] == 1][0] == 200).all()


def test_grey_and_transparent_images_become_colour(image_folder: Path) -> None:
    Image.new("L", (32, 32), 77).save(image_folder / "test" / "red" / "0.png")
    Image.new("RGBA", (32, 32), (10, 20, 30, 255)).save(image_folder / "test" / "red" / "1.png")
    first, second, *_ = read(root=image_folder).images["test"][3:]
    assert (first == 77).all()
    assert second[:, 0, 0].tolist() == [10, 20, 30]


def test_photographs_are_turned_upright(image_folder: Path) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 200  # bright above, dark below
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(upright[::-1].copy()).save(image_folder / "test" / "red" / "0.png", exif=exif)
    data = read(root=image_folder)
    image = data.images["test"][data.labels["test"] == 1][0].float()
    assert image[:, :16].mean() > 190 > 10 > image[:, 16:].mean()


def test_without_test_folder_a_fraction_of_each_class_is_tested_on(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder.parent / "elsewhere")
    data = read(root=image_folder, test_fraction=0.34)
    assert torch.bincount(data.labels["train"]).tolist() == [4, 4]
    assert torch.bincount(data.labels["test"]).tolist() == [2, 2]


def test_without_test_folder_the_split_does_not_depend_on_the_seed(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder.parent / "elsewhere")
    one, other = (Images(Images.Config(root=image_folder), seed).read() for seed in (0, 1))
    assert torch.equal(one.images["test"], other.images["test"])
    assert len(one.labels["test"]) == 2


def test_without_test_folder_a_class_needs_two_images(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder.parent / "elsewhere")
    write_image(image_folder / "train" / "green" / "only.png")
    fails_to_read(r"train/green has a single image", root=image_folder)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    fails_to_read(r"no folder .*none \(--env\.root\)", root=tmp_path / "none")


def test_a_folder_without_train_is_an_error(tmp_path: Path) -> None:
    fails_to_read(r"no folder .*train; expected .*train/CLASS/\*\.png", root=tmp_path)


def test_no_class_folders_are_an_error(image_folder: Path) -> None:
    write_image(image_folder.parent / "flat" / "train" / "0.png")
    fails_to_read(r"flat/train has no class folders; expected", root=image_folder.parent / "flat")


def test_a_class_folder_without_images_is_an_error(image_folder: Path) -> None:
    (image_folder / "train" / "green").mkdir()
    fails_to_read(r"class folder .*train/green has no images", root=image_folder)


def test_a_class_that_is_not_trained_on_is_an_error(image_folder: Path) -> None:
    write_image(image_folder / "test" / "green" / "0.png")
    fails_to_read(r"same classes .* only in one of them: test/green", root=image_folder)


def test_a_class_that_is_not_tested_on_is_an_error(image_folder: Path) -> None:
    write_image(image_folder / "train" / "green" / "0.png")
    fails_to_read(r"same classes .* only in one of them: train/green", root=image_folder)


def test_a_single_class_folder_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "train" / "red" / f"{number}.png")
    fails_to_read("only one class", root=tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_a_corrupt_image_is_an_error_that_names_it(damage: str, suffix: str, image_folder: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8))
    path = image_folder / "train" / "red" / f"bad.{suffix}"
    noise.save(path)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"this is no image", "half": content[: len(content) // 2]}[damage]
    )
    fails_to_read(rf"train/red/bad\.{suffix} cannot be read as an image", root=image_folder)


def test_no_damage_of_an_image_escapes_as_another_error(image_folder: Path) -> None:
    chance = random.Random(0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8))
    for suffix in ("png", "jpeg", "bmp", "webp"):
        buffer = io.BytesIO()
        noise.save(buffer, suffix)
        path = image_folder / "train" / "red" / f"bad.{suffix}"
        for _ in range(40):
            content = bytearray(buffer.getvalue())
            for _ in range(3):
                content[chance.randrange(min(len(content), 200))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            with suppress(api.DataError):
                read(root=image_folder)
        path.unlink()


def test_sixteen_bit_images_are_an_error(image_folder: Path) -> None:
    """Pillow would turn nearly every pixel of them white."""
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(image_folder / "train" / "red" / "deep.png")
    fails_to_read(r"deep\.png has more than 8 bits per channel", root=image_folder)


def test_an_archive_and_a_folder_of_the_same_images_are_the_same(
    image_folder: Path, make_image_archive: MakeArchive
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 48, 32, 3)).astype(np.uint8)
    for name, image in zip(("blue", "red"), pixels, strict=True):
        path = image_folder.parent / "other"
        for split in ("train", "test"):
            write_image(path / split / name / "0.png")
            Image.fromarray(image).save(path / split / name / "0.png")
    archive = make_image_archive(
        x_train=pixels,
        x_test=pixels,
        y_train=np.arange(2),
        y_test=np.arange(2),
        names=np.array(["blue", "red"]),
    )
    one, other = read(archive=archive), read(root=image_folder.parent / "other")
    assert torch.equal(one.images["train"], other.images["train"])  # the middle square, nothing to resize
    assert one.names == other.names
