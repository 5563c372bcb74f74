"""Images in folders: layouts, splits, what is left out, and identity."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from PIL import Image

from sidetune_core import api
from sidetune_core.config import kinds, registry
from sidetune_core.config.options import structure

Images = registry.load(registry.find(kinds.ENV, "images"))
WriteImages = Callable[..., Path]


class Read:
    """The tasks of some options, and what was printed."""

    def __init__(self, *roots: Path, seed: int = 0, **options: Any) -> None:
        self.lines: list[str] = []
        self.stream = Images(Images.Config(root=roots, **options), seed)
        self.stream.info = self.lines.append
        self.tasks = self.stream.tasks()

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        return {task.id: task.outputs.names for task in self.tasks}

    def counts(self, split: str) -> list[list[int]]:
        return [torch.bincount(task.labels(split)).tolist() for task in self.tasks if split in task.sources]


def fails(match: str, *roots: Path, **options: Any) -> None:
    with pytest.raises(api.SidetuneError, match=match) as caught:
        Read(*roots, **options)
    assert "\n" not in str(caught.value)


# Layouts


def test_class_folders_are_one_task_with_a_held_out_split(write_images: WriteImages) -> None:
    read = Read(write_images({"cat": 5, "dog": 10}))
    assert read.classes == {"t0": ("cat", "dog")}
    assert (read.counts("train"), read.counts("test")) == ([[4, 8]], [[1, 2]])
    assert read.lines == [
        "15 images of 2 classes in 1 task (train 12, test 3); layout CLASS; 20 % of each class held out for "
        "testing"
    ]


def test_splits_are_folders(write_images: WriteImages) -> None:
    read = Read(write_images({f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"}))
    assert read.classes == {"t0": ("a", "b")}
    assert read.tasks[0].splits == ("val", "test")
    assert read.lines == [
        "18 images of 2 classes in 1 task (train 6, val 6, test 6); layout train|val|test/CLASS"
    ]


def test_other_names_of_splits_are_known(write_images: WriteImages) -> None:
    read = Read(
        write_images({f"{split}/{name}": 2 for split in ("Training", "valid", "TEST") for name in "ab"})
    )
    assert read.tasks[0].splits == ("val", "test")


def test_a_folder_for_each_customer_is_a_task_for_each(customers: Path) -> None:
    read = Read(customers, on_error="skip")
    assert read.classes == {
        "Bolt-Co": ("class 0", "class 1"),
        "acme": ("class 0", "class 1", "class 2"),
        "Capek": ("class 0", "class 1", "class 2", "class 3"),
    }
    assert [task.title for task in read.tasks] == ["Bolt & Co.", "acme", "Čapek"]
    assert read.counts("train") == [[4, 6], [4, 6, 7], [4, 6, 7, 9]]
    assert read.counts("test") == [[1, 1], [1, 1, 2], [1, 1, 2, 2]]
    assert read.lines == [
        "65 images of 9 classes in 3 tasks (train 53, test 12); left out: 1 hidden, 1 with another suffix "
        "(.txt), 1 dangling link, 1 unreadable; layout TASK/CLASS; 20 % of each class held out for testing"
    ]


def test_a_customer_may_have_splits(write_images: WriteImages) -> None:
    read = Read(
        write_images({"acme/train/a": 4, "acme/train/b": 4, "acme/test/a": 2, "bolt/a": 5, "bolt/c": 5})
    )
    assert read.classes == {"acme": ("a", "b"), "bolt": ("a", "c")}
    assert (read.counts("train"), read.counts("test")) == ([[4, 4], [4, 4]], [[2], [1, 1]])
    assert "no test image of acme/b: trained on, not tested" in read.lines[0]
    assert "held out for testing of 1 task" in read.lines[0]


def test_several_folders_are_domains(write_images: WriteImages) -> None:
    roots = [write_images({"cat": 3, "dog": 3}, name=name) for name in ("photos", "sketches")]
    read = Read(*roots)
    assert read.classes == {"photos": ("cat", "dog"), "sketches": ("cat", "dog")}
    assert "layout 2 folders of CLASS" in read.lines[0]


def test_domains_of_one_name_are_told_apart(write_images: WriteImages) -> None:
    roots = [write_images({"cat": 3, "dog": 3}, name=name) for name in ("2022/photos", "2023/photos")]
    read = Read(*roots)
    assert [task.title for task in read.tasks] == [str(root) for root in roots]
    assert len(set(read.classes)) == 2


def test_nested_folders_belong_to_their_class(write_images: WriteImages) -> None:
    read = Read(write_images({"cat": 2, "cat/2023/may": 2, "dog/2023": 4}))
    assert (read.classes, read.counts("train")) == ({"t0": ("cat", "dog")}, [[3, 3]])


@pytest.mark.parametrize(
    ("counts", "layout"),
    [
        ({"cat": 2, "dog/2023": 2}, "CLASS"),
        ({"cat": 2, "cat/x": 2, "dog": 2, "dog/x": 1}, "CLASS"),
        ({"acme/cat": 2, "bolt/dog": 2}, "TASK/CLASS"),
        ({"acme/cat": 6, "acme": 1, "bolt/dog": 6}, "TASK/CLASS"),
        ({"acme/cat": 2, "acme": 1, "bolt/dog": 2}, "CLASS"),
        ({"bus": 2, "train": 2}, "CLASS"),
        ({"acme/cat": 2, "acme/dog": 2, "bolt/bus": 2, "bolt/train": 2}, "TASK/CLASS"),
        ({"train/cat": 2, "train/dog": 2, "others": 2}, "train/CLASS"),
    ],
)
def test_the_layout_is_found_and_said(counts: dict[str, int], layout: str, write_images: WriteImages) -> None:
    read = Read(write_images(counts))
    assert f"layout {layout};" in read.lines[0]


def test_the_layout_can_be_chosen(write_images: WriteImages) -> None:
    root = write_images({"acme/cat": 2, "bolt/dog": 2})
    assert Read(root, layout="classes").classes == {"t0": ("acme", "bolt")}


def test_images_outside_of_class_folders_are_left_out_and_counted(write_images: WriteImages) -> None:
    root = write_images({"acme/cat": 5, "acme/dog": 5, "acme": 1, "bolt/cat": 2, "bolt/dog": 2, "": 1})
    (root / "bolt" / "empty").mkdir()
    read = Read(root)
    assert "left out: 1 empty folder, 2 images outside of class folders;" in read.lines[0]


def test_a_folder_of_one_class_can_be_a_task(write_images: WriteImages) -> None:
    read = Read(write_images({"acme/cat": 2, "bolt/cat": 2, "bolt/dog": 2}))
    assert [len(names) for names in read.classes.values()] == [1, 2]
    assert "one class only, so that accuracy is 1: acme" in read.lines[0]


def test_links_are_followed_but_not_around_a_loop(write_images: WriteImages) -> None:
    root = write_images({"cat": 2, "dog": 2})
    os.symlink(root / "cat", root / "fox")
    os.symlink(root, root / "dog" / "loop")
    read = Read(root)
    assert read.classes == {"t0": ("cat", "dog", "fox")}
    assert "left out: 1 link to a folder that contains it;" in read.lines[0]


# Tasks


def test_a_prime_number_of_classes_is_divided_into_tasks(write_images: WriteImages) -> None:
    read = Read(write_images(dict.fromkeys("abcdefg", 2)), classes_per_task=3)
    assert [len(names) for names in read.classes.values()] == [3, 3, 1]
    assert "7 classes in tasks of 3: the last task has only 1" in read.lines[0]


def test_classes_of_domains_are_divided_into_tasks(write_images: WriteImages) -> None:
    read = Read(
        write_images({f"{task}/{name}": 2 for task in ("x", "y") for name in "abc"}), classes_per_task=2
    )
    assert read.classes == {"x-0": ("a", "b"), "x-1": ("c",), "y-0": ("a", "b"), "y-1": ("c",)}


def test_an_order_of_the_user_picks_classes(write_images: WriteImages) -> None:
    root = write_images(dict.fromkeys(("cat", "dog", "bird", "odd"), 2))
    (root / "odd" / "bad.png").write_bytes(b"")  # not used, so not read
    read = Read(root, tasks="dog,cat|bird")
    assert read.classes == {"t0": ("dog", "cat"), "t1": ("bird",)}
    assert "left out: classes in no task (odd)" in read.lines[0]
    (batch,) = islice(read.tasks[0].train(lambda inputs: inputs["image"], api.Order(0, 2)), 1)
    red = batch.inputs["image"].mean((2, 3)).argmax(1)  # dog is grey, cat is blue
    assert torch.equal(red == 2, batch.targets == 1)


def test_an_order_is_refused_where_folders_are_tasks(write_images: WriteImages) -> None:
    fails(
        "are 2 tasks already .a, b.; leave out --env.tasks", write_images({"a/x": 2, "b/y": 2}), tasks="x|y"
    )


def test_only_the_first_customers_are_read_if_asked_for(customers: Path) -> None:
    assert list(Read(customers, num_tasks=1, on_error="skip").classes) == ["Bolt-Co"]


# What cannot be used


def test_all_bad_files_are_listed_in_one_pass(write_images: WriteImages) -> None:
    root = write_images({"cat": 6, "dog": 6})
    for name in ("cat/0.png", "cat/3.png", "dog/2.png", "dog/4.png"):
        (root / name).write_bytes(b"no image")
    fails(
        r"^4 of 12 files cannot be read: cat/0.png \(cannot identify image file\), .* and 1 more; leave them "
        "out with --env.on-error skip$",
        root,
    )
    assert "4 unreadable" in Read(root, on_error="skip").lines[0]


def test_ids_of_what_is_left_are_those_of_decoded_images(write_images: WriteImages) -> None:
    """Images that are kept in memory belong to ids, which a file that is left out must not shift."""
    root = write_images({"cat": 6, "dog": 6})
    (root / "cat" / "0.png").write_bytes(b"no image")
    kept, decoded = (
        list(Read(root, on_error="skip", memory=memory).tasks[0].batches("test")) for memory in (1.0, 0.0)
    )
    assert torch.equal(kept[0].inputs["image"], decoded[0].inputs["image"])


def test_a_class_in_test_only_is_an_error(write_images: WriteImages) -> None:
    root = write_images({"train/a": 2, "train/b": 2, "test/a": 2, "test/c": 1, "test/d": 1})
    fails(r"2 of 4 classes have no training image: c, d; leave them out with --env.on-error skip", root)
    read = Read(root, on_error="skip")
    assert read.classes == {"t0": ("a", "b")}
    assert "left out: 2 classes with images of other splits only (c, d)" in read.lines[0]


def test_single_images_that_cannot_be_divided_are_all_listed(write_images: WriteImages) -> None:
    root = write_images({"acme/a": 2, "acme/b": 1, "bolt/a": 2, "bolt/c": 2, "bolt/d": 1})
    fails("2 of 5 classes have a single image, and needs two: one is held out.*: acme/b, bolt/d; leave", root)
    assert Read(root, on_error="skip").classes == {"acme": ("a",), "bolt": ("a", "c")}


def test_a_task_without_test_images_is_an_error(write_images: WriteImages) -> None:
    root = write_images({"train/a": 2, "train/b": 2, "test/a": 2})
    fails("1 of 2 tasks have no test image: t1", root, classes_per_task=1)


@pytest.mark.parametrize(
    ("counts", "options", "match"),
    [
        ({}, {}, r"no folder .*photos \(--env.root\): it does not exist"),
        ({"": 2}, {}, "has images, and no class folders; expected .*--env.table"),
        (
            {"test/a": 2, "test/b": 2},
            {},
            "a folder 'test' and no folder 'train'; .*pass --env.layout classes",
        ),
        ({"a": 2, "b": 2}, {"layout": "splits"}, r"no folder .*train; expected .* Its folders: a, b"),
        (
            {"a": 2, "b": 2},
            {"layout": "tasks"},
            "no task folder; expected TASK/CLASS.* pass --env.layout classes",
        ),
        ({"a": 2}, {}, "only one class .'a'. in one task, expected two or more"),
        ({"train/a": 2, "Train/b": 2}, {}, "two folders are the split 'train'"),
        ({"train/a": 3, "val/a": 1, "train/b": 3}, {"val_fraction": 0.2}, "leave out --env.val-fraction"),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error(
    counts: dict[str, int], options: dict[str, Any], match: str, write_images: WriteImages
) -> None:
    fails(match, write_images(counts), **options)


def test_a_folder_without_images_is_an_error_that_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.heic").write_bytes(b"")
    fails(r"no images in .* left out: 1 with another suffix \(.heic\)", tmp_path)


# Preprocessing


def test_options_follow_the_base() -> None:
    config = Images.Config(root=(Path("x"),))
    fitted = Images.fit_images(config, api.ImageInput(224, "bicubic", 0.875))
    assert (fitted.image_size, fitted.interpolation, fitted.crop_fraction) == (224, "bicubic", 0.875)
    alone = Images.fit_images(config, None)
    assert (alone.image_size, alone.interpolation, alone.crop_fraction) == (32, "bilinear", 1.0)


def test_options_of_the_user_come_before_those_of_the_base() -> None:
    config = Images.Config(root=(Path("x"),), image_size=64, interpolation="bilinear", crop_fraction=1.0)
    assert Images.fit_images(config, api.ImageInput(224, "bicubic", 0.875)) == config


def test_an_archive_follows_the_size_only() -> None:
    fitted = Images.fit_images(Images.Config(archive=Path("x")), api.ImageInput(224, "bicubic", 0.875))
    assert (fitted.image_size, fitted.interpolation, fitted.crop_fraction) == (224, "bilinear", 1.0)


def test_the_card_says_how_a_file_becomes_an_input(write_images: WriteImages) -> None:
    read = Read(write_images({"cat": 3, "dog": 3}), image_size=10, interpolation="bicubic", crop_fraction=0.8)
    assert read.tasks[0].card() == {"resize": "pillow", "interpolation": "bicubic", "crop_fraction": 0.8}


@pytest.mark.parametrize("value", ["a, b", Path("a, b"), ["a, b"]])
@pytest.mark.filterwarnings("error")
def test_one_folder_needs_no_list(value: object) -> None:
    """And a comma is part of its name."""
    assert structure(Images.Config, {"root": value}, "env").root == (Path("a, b"),)


# Identity


def test_the_data_consist_of_the_classes_of_each_split(customers: Path) -> None:
    parts = Read(customers, on_error="skip").stream.data_parts()
    assert {name: part.count for name, part in parts.items() if name.startswith("Bolt-Co/")} == {
        "Bolt-Co/train/class 0": 4,
        "Bolt-Co/train/class 1": 6,
        "Bolt-Co/test/class 0": 1,
        "Bolt-Co/test/class 1": 1,
    }


def test_what_is_read_identifies_the_data(write_images: WriteImages) -> None:
    root = write_images({"cat": 4, "dog": 4})
    before = Read(root).stream
    root.rename(root.with_name("moved"))
    root = root.with_name("moved")
    moved = Read(root).stream
    assert before.data_fingerprint() == moved.data_fingerprint()
    assert before.data_parts() == moved.data_parts()
    Image.new("RGB", (20, 14)).save(root / "cat" / "1.png")
    changed = Read(root).stream
    assert {before.fingerprint(), before.data_fingerprint()}.isdisjoint(
        {changed.fingerprint(), changed.data_fingerprint()}
    )
    differing = {name for name, part in changed.data_parts().items() if part != before.data_parts()[name]}
    assert len(differing) == 1
    assert differing < {"train/cat", "test/cat"}


def test_other_labels_are_other_data_with_the_same_inputs(write_images: WriteImages) -> None:
    root = write_images({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 2})
    before = Read(root).stream
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "ant")  # in the same order
    after = Read(root).stream
    assert before.fingerprint() == after.fingerprint()
    assert before.data_fingerprint() != after.data_fingerprint()


@pytest.mark.parametrize("scan", ["headers", "names"])
def test_a_light_scan_compares_names_and_sizes(scan: str, write_images: WriteImages) -> None:
    root = write_images({"cat": 4, "dog": 4})
    before = Read(root, scan=scan)
    content = bytearray((root / "cat" / "1.png").read_bytes())
    content[-20] ^= 1
    (root / "cat" / "1.png").write_bytes(content)
    assert Read(root, scan=scan).stream.data_fingerprint() == before.stream.data_fingerprint()
    (root / "cat" / "1.png").write_bytes(bytes(content) + b" ")
    assert Read(root, scan=scan).stream.data_fingerprint() != before.stream.data_fingerprint()
    assert f"contents were not read (--env.scan {scan})" in before.lines[0]


def test_preprocessing_is_part_of_the_inputs(write_images: WriteImages) -> None:
    root = write_images({"cat": 2, "dog": 2})
    prints = {Read(root, interpolation=kind).stream.fingerprint() for kind in ("bilinear", "bicubic")}
    assert len(prints) == 2


# Imbalance


def test_class_weights_and_balanced_sampling_reach_the_task(write_images: WriteImages) -> None:
    root = write_images({"train/cat": 2, "train/dog": 6, "test/cat": 1, "test/dog": 1})
    weighted = Read(root, class_weights="balanced").tasks[0]
    assert weighted.objective.weights.tolist() == pytest.approx([2.0, 2 / 3])
    assert Read(root, sampling="balanced").tasks[0].sampling == "balanced"


def test_options_of_other_places_are_refused(tmp_path: Path) -> None:
    base = Images.Config(root=(tmp_path,))
    for changes, match in (
        ({"targets": "values"}, "needs a table"),
        ({"archive": tmp_path}, "mutually exclusive"),
        (
            {"root": (), "table": tmp_path, "label_column": ("a", "b")},
            "has one column of labels, and 2 are given",
        ),
        ({"root": (), "archive": tmp_path, "crop_fraction": 0.5}, "leave out --env.interpolation"),
        ({"root": (), "table": tmp_path, "targets": "labels", "sampling": "balanced"}, "is for classes"),
    ):
        with pytest.raises(api.OptionError, match=match):
            Images(attrs.evolve(base, **changes), 0)


# Few images


def test_few_images_are_drawn_of_each_class(write_images: WriteImages) -> None:
    root = write_images({"cat": 12, "dog": 30, "emu": 8})
    few, more = Read(root, max_images=6, val_fraction=0.2), Read(root, max_images=10, val_fraction=0.2)
    assert few.counts("train") == [[2, 2, 2]]
    assert sorted(more.counts("train")[0]) == [3, 3, 4]
    ids = [
        set(read.tasks[0].sources["train"].ids(torch.arange(read.tasks[0].size("train"))).tolist())
        for read in (few, more)
    ]
    assert ids[0] < ids[1]
    assert few.counts("val") == more.counts("val") == [[2, 5, 1]]
    assert "(train 6, val 8, test 10)" in few.lines[-1]
    assert few.lines[-1].endswith("6 training images of each task, drawn by the seed")


def test_more_images_than_a_class_has_are_an_error(write_images: WriteImages) -> None:
    root = write_images({"a/cat": 12, "a/dog": 5, "b/cat": 5, "b/emu": 20})
    with pytest.raises(
        api.OptionError, match=r"2 of 4 classes .*dog of a \(4 of 8\), cat of b .*max-images 8$"
    ):
        Read(root, layout="tasks", max_images=16)
