"""Archives whose arrays are mapped: the same tasks, and errors for what is damaged or changes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sidetune_core import api
from sidetune_core.config import kinds, registry

ICIFAR = registry.load(registry.find(kinds.ENV, "icifar"))
MODULES = ("sidetune_plugins.envs.classification.mapped", "sidetune_plugins.envs.classification.archive")
MakeArchive = Callable[..., Path]


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays are mapped too."""
    for module in MODULES:
        monkeypatch.setattr(f"{module}.MIN_MAPPED_BYTES", 1)


def stream(archive: Path, **options: object) -> api.TaskStream:
    made: api.TaskStream = ICIFAR(ICIFAR.Config(archive=archive, classes_per_task=2, **options), 0)
    return made


def batches(tasks: list[api.Task]) -> list[torch.Tensor]:
    return [batch_of(task).inputs["image"] for task in tasks]


def batch_of(task: api.Task) -> api.Batch:
    return next(iter(task.train(lambda _: torch.empty(0), api.Order(0, 8))))


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.2}, {"augment": "crop-flip"}], ids=str)
def test_a_mapped_archive_has_the_same_tasks(
    options: dict[str, object], image_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stream(image_archive, **options)
    expected, parts = [*read.tasks()], read.data_parts()
    for module in MODULES:
        monkeypatch.setattr(f"{module}.MIN_MAPPED_BYTES", 1)
    other = stream(image_archive, **options)
    tasks = [*other.tasks()]
    assert other.fingerprint() == read.fingerprint()
    assert other.data_parts() == parts
    for image, reference in zip(batches(tasks), batches(expected), strict=True):
        assert torch.equal(image, reference)
        assert image.stride() == reference.stride()


def test_grey_images_are_mapped_too(make_image_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = {f"x_{split}": np.arange(count * 1024, dtype=np.uint32).astype(np.uint8) for split, count in SIZES}
    shaped = {name: pixels.reshape(-1, 32, 32) for name, pixels in grey.items()}
    path = make_image_archive(**shaped)
    read = stream(path)
    expected = batches([*read.tasks()])
    for module in MODULES:
        monkeypatch.setattr(f"{module}.MIN_MAPPED_BYTES", 1)
    other = stream(path)
    assert all(map(torch.equal, batches([*other.tasks()]), expected))
    assert other.fingerprint() == read.fingerprint()


SIZES = (("train", 80), ("test", 32))


@pytest.mark.usefixtures("mapped")
def test_a_damaged_array_is_an_error(image_archive: Path) -> None:
    content = bytearray(image_archive.read_bytes())
    with zipfile.ZipFile(image_archive) as archive:
        content[archive.getinfo("x_train.npy").header_offset + 5000] ^= 1
    image_archive.write_bytes(content)
    with pytest.raises(api.DataError, match=r"x_train cannot be read: Bad CRC-32"):
        stream(image_archive).tasks()


@pytest.mark.usefixtures("mapped")
def test_an_archive_that_is_cut_off_is_an_error(image_archive: Path) -> None:
    image_archive.write_bytes(image_archive.read_bytes()[:-1000])
    with pytest.raises(api.DataError, match="is truncated"):
        stream(image_archive).tasks()


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("size", [0, 1])
def test_an_archive_that_changes_while_it_is_used_is_an_error(size: int, image_archive: Path) -> None:
    task = stream(image_archive).tasks()[0]
    before = image_archive.stat()
    with image_archive.open("r+b") as file:
        file.truncate(size * before.st_size)  # 0: reading it would end the process
    os.utime(image_archive, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(api.DataError, match="was changed while it was in use"):
        batch_of(task)


@pytest.mark.usefixtures("mapped")
def test_an_archive_that_another_replaces_is_read_as_it_was(image_archive: Path, tmp_path: Path) -> None:
    task = stream(image_archive).tasks()[0]
    before = batch_of(task).inputs["image"]
    other = tmp_path / "other"
    other.write_bytes(b"other content")
    other.replace(image_archive)
    assert torch.equal(batch_of(task).inputs["image"], before)


@pytest.mark.usefixtures("mapped")
def test_a_compressed_archive_is_read(image_archive: Path, tmp_path: Path) -> None:
    expected = stream(image_archive)
    tasks = [*expected.tasks()]
    path = tmp_path / "compressed.npz"
    with np.load(image_archive) as arrays:
        np.savez_compressed(path, **arrays)
    other = stream(path)
    assert all(map(torch.equal, batches([*other.tasks()]), batches(tasks)))
    assert other.fingerprint() == expected.fingerprint()
