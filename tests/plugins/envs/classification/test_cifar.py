"""CIFAR-10 and CIFAR-100, from archives and from torchvision."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets

from sidetune_core import api
from sidetune_core.config import kinds, registry

ICIFAR = registry.load(registry.find(kinds.ENV, "icifar"))
CIFAR10 = registry.load(registry.find(kinds.ENV, "cifar10"))
MakeArchive = Callable[..., Path]
CLASSES = [f"class{number:02}" for number in range(20)]


class StandIn:
    """What torchvision's CIFAR100 has, with 20 classes; pixels tell split and label."""

    classes = CLASSES

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        assert download
        self.root = root
        each = 3 if train else 2
        self.targets = list(range(20)) * each
        self.data = np.zeros((len(self.targets), 32, 32, 3), np.uint8)
        self.data[..., 0] = np.array(self.targets)[:, None, None]
        self.data[..., 1] = train


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", StandIn)


def stream(seed: int = 0, env: Any = ICIFAR, **options: Any) -> api.TaskStream:
    made: api.TaskStream = env(env.Config(**options), seed)
    return made


def targets_of(task: api.Task) -> torch.Tensor:
    """Targets of the test split, through what `evaluate` tells about the constant answer k."""
    shares = []
    for label in range(10):

        def predict(inputs: api.Inputs, label: int = label) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(inputs["image"]),), label), 10).float()

        shares.append(task.evaluate(predict)["accuracy"])
    return torch.tensor(shares)


@pytest.mark.usefixtures("stand_in")
def test_torchvisions_set_is_cut_into_tasks_of_ten(tmp_path: Path) -> None:
    assert [task.title for task in stream(root=tmp_path).tasks()] == [
        "class00 to class09",
        "class10 to class19",
    ]


@pytest.mark.usefixtures("stand_in")
def test_torchvisions_images_keep_their_labels_and_splits(tmp_path: Path) -> None:
    data = ICIFAR(ICIFAR.Config(root=tmp_path), 0).read()
    for split, is_train in (("train", 1), ("test", 0)):
        assert data.images[split].shape == (len(data.labels[split]), 3, 32, 32)
        assert torch.equal(data.images[split][:, 0, 0, 0].long(), data.labels[split])
        assert (data.images[split][:, 1] == is_train).all()


@pytest.mark.usefixtures("stand_in")
def test_asking_for_ninety_nine_tasks_gives_those_there_are(tmp_path: Path) -> None:
    assert len(stream(root=tmp_path, num_tasks=99).tasks()) == 2


@pytest.mark.parametrize(
    "error", [URLError("no route"), RuntimeError("File not found or corrupted."), PermissionError("denied")]
)
def test_a_failing_download_says_how_to_do_without(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fail)
    with pytest.raises(api.DataError, match=r"cannot download CIFAR100 into .*--env\.archive") as caught:
        stream(root=tmp_path).tasks()
    assert caught.value.__cause__ is error


def test_a_download_of_something_else_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name in ("cifar-100-python/train", "../outside"):
            archive.addfile(tarfile.TarInfo(name))

    class Response(io.BytesIO):
        url, length = None, len(written.getvalue())

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(written.getvalue()))
    root = tmp_path / "root"
    with pytest.raises(api.DataError, match="cannot download CIFAR100 into .*corrupted"):
        stream(root=root).tasks()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "root/cifar-100-python.tar.gz"
    ]


def test_nothing_is_read_before_tasks_are_asked_for(tmp_path: Path) -> None:
    assert stream(archive=tmp_path / "none.npz").inputs == {"image": (3, 32, 32)}


def test_an_archive_is_read_instead_of_downloading(
    image_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torchvision.datasets, "CIFAR10")
    assert [task.title for task in stream(env=CIFAR10, archive=image_archive).tasks()] == ["blue to white"]


def test_an_archive_of_another_image_size_is_an_error(make_image_archive: MakeArchive) -> None:
    archive = make_image_archive(x_train=np.zeros((80, 28, 28), np.uint8))
    with pytest.raises(
        api.DataError, match=r"images\.npz: the images of x_train are 28 x 28 pixels, expected 32 x 32"
    ):
        stream(archive=archive).tasks()


def test_fewer_classes_than_those_of_a_task_are_one_task(image_archive: Path) -> None:
    (task,) = stream(archive=image_archive).tasks()
    assert task.outputs.size == 4


def test_the_real_cifar100_is_ten_tasks_of_ten_consecutive_classes(cifar100_archive: Path) -> None:
    data = ICIFAR(ICIFAR.Config(archive=cifar100_archive), 0).read()
    assert {split: images.shape for split, images in data.images.items()} == {
        "train": (50000, 3, 32, 32),
        "test": (10000, 3, 32, 32),
    }
    assert list(data.names) == sorted(data.names)
    tasks = stream(archive=cifar100_archive).tasks()
    assert [task.id for task in tasks] == [f"t{number}" for number in range(10)]
    assert [task.title for task in tasks] == [
        f"{data.names[first]} to {data.names[first + 9]}" for first in range(0, 100, 10)
    ]
    assert tasks[0].title == "apple to bottle"
    for task in tasks:
        assert task.steps_per_epoch(100) == 50
        torch.testing.assert_close(
            targets_of(task), torch.full((10,), 0.1)
        )  # labels 0 to 9, a hundred images of each


def test_the_real_cifar10_is_one_task(cifar10_archive: Path) -> None:
    (task,) = stream(env=CIFAR10, archive=cifar10_archive).tasks()
    assert task.title == "airplane to truck"
    assert task.steps_per_epoch(100) == 500
