"""Data sets of torchvision, in the library's own file formats."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from PIL import Image
from sidetune_plugins.envs.torchvision.catalogue import CATALOGUE
from sidetune_plugins.envs.torchvision.env import TorchvisionSets, labels_of
from torchvision import datasets

import sidetune_core
from sidetune_core import api

Array = NDArray[np.uint8]


def pixels(count: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write_mnist(root: Path, name: str = "MNIST", counts: tuple[int, int] = (40, 20)) -> dict[str, Array]:
    """Labels go around in a circle."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    written = {}
    for split, count in zip(("train", "t10k"), counts, strict=True):
        images = pixels(count, 28, 28)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">4Bi", 0, 0, 8, 1, count)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        written[split] = images
    return written


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label 10 is the digit 0."""
    split_list = {}
    for split, count in (("train", 40), ("test", 20)):
        path = root / f"{split}_32x32.mat"
        labels = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)
        scipy.io.savemat(path, {"X": pixels(count, 32, 32, 3).transpose(1, 2, 3, 0), "y": labels})
        split_list[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    lists, written = {}, {}
    for key, name, count in (("train_list", "data_batch_1", 40), ("test_list", "test_batch", 20)):
        images = written[key] = pixels(count, 3, 32, 32)
        labels = [label % 10 for label in range(count)]
        content = pickle.dumps({"data": images.reshape(count, -1), "labels": labels})
        (folder / name).write_bytes(content)
        lists[key] = [[name, hashlib.md5(content).hexdigest()]]
    content = pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]})
    (folder / "batches.meta").write_bytes(content)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(content).hexdigest()}
    for name, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    return written


def write_flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of several sizes, three of each of two classes, one for each split."""
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        image = Image.fromarray(pixels(1, 40 + 8 * number, 60, 3, seed=number)[0])
        image.save(folder / "jpg" / f"image_{number:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 1, 1, 2, 2, 2]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [1, 4], "valid": [2, 5], "tstid": [3, 6]})
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)


def opened(root: Path, *names: str, **options: Any) -> TorchvisionSets:
    stream = TorchvisionSets(TorchvisionSets.Config(dataset=names, root=root, **options), 0)
    stream.lines = []  # type: ignore[attr-defined]
    stream.info = stream.lines.append  # type: ignore[attr-defined]
    return stream


def first_images(task: api.SupervisedTask, split: str = "test") -> torch.Tensor:
    return next(iter(task.batches(split))).inputs["image"]


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("no internet")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


# One data set


def test_idx_files_become_one_task_with_the_published_splits(tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    stream = opened(tmp_path, "MNIST", image_size=28)
    (task,) = stream.tasks()
    assert task.outputs.names == tuple("0123456789")
    assert (task.size("train"), task.size("test")) == (40, 20)
    images = first_images(task)
    assert images.shape == (20, 3, 28, 28)
    assert torch.equal((images[:, 0] * 255).round().byte(), torch.from_numpy(written["t10k"]))
    assert stream.lines == [  # type: ignore[attr-defined]
        "60 images of 10 classes in 1 task (train 40, test 20)"
    ]


def test_classes_are_divided_into_tasks(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    tasks = opened(tmp_path, "MNIST", classes_per_task=5).tasks()
    assert [task.outputs.names for task in tasks] == [tuple("01234"), tuple("56789")]
    assert [task.size("train") for task in tasks] == [20, 20]


def test_a_part_of_the_training_images_is_held_out_for_validation(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (task,) = opened(tmp_path, "MNIST", val_fraction=0.25).tasks()
    assert [task.size(split) for split in ("train", "val", "test")] == [30, 10, 20]


def test_few_images_of_each_class_are_trained_on(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (task,) = opened(tmp_path, "MNIST", max_images=20).tasks()
    assert torch.bincount(task.sources["train"].targets()).tolist() == [2] * 10
    assert task.size("test") == 20


def test_pickled_batches_have_the_ids_and_pixels_of_env_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidetune_plugins.envs.classification.cifar10 import CIFAR10

    written = write_cifar10(tmp_path, monkeypatch)
    (task,) = opened(tmp_path, "CIFAR10").tasks()
    assert task.outputs.names[0] == "kind 0"
    names = np.array([f"kind {k}" for k in range(10)])
    labels = {split: np.arange(count) % 10 for split, count in (("train", 40), ("test", 20))}
    archive = {f"x_{key[:-5]}": images.transpose(0, 2, 3, 1) for key, images in written.items()}
    np.savez(tmp_path / "a.npz", names=names, **archive, **{f"y_{k}": v for k, v in labels.items()})
    (other,) = CIFAR10(CIFAR10.Config(archive=tmp_path / "a.npz"), 0).tasks()
    batches = [next(one.train(lambda inputs: inputs["image"], api.Order(3, 16))) for one in (task, other)]
    assert torch.equal(batches[0].ids, batches[1].ids)
    assert torch.equal(batches[0].inputs["image"], batches[1].inputs["image"])
    assert torch.equal(batches[0].targets, batches[1].targets)


def test_photographs_of_any_size_are_preprocessed_as_the_base_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flowers(tmp_path, monkeypatch)
    config = TorchvisionSets.Config(dataset=("Flowers102",), root=tmp_path)
    config = TorchvisionSets.fit_images(config, api.ImageInput(24, "bicubic", 0.875))
    (task,) = TorchvisionSets(config, 0).tasks()
    assert task.splits == ("val", "test")
    assert len(task.outputs.names) == 2  # the classes without images are left out
    images = first_images(task)
    handler = TorchvisionSets.handler(
        api.TaskCard("t0", "", "torchvision", task.inputs, task.outputs, "accuracy", values=task.card())
    )
    paths = [tmp_path / "flowers-102" / "jpg" / f"image_0000{number}.jpg" for number in (3, 6)]
    assert torch.equal(handler.preprocess(paths).inputs["image"], images)


# Several


def test_several_data_sets_are_tasks_with_the_same_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    write_svhn(tmp_path, monkeypatch)
    tasks = opened(tmp_path, "MNIST", "SVHN").tasks()
    assert [task.id for task in tasks] == ["MNIST", "SVHN"]
    assert tasks[0].outputs == tasks[1].outputs
    assert tasks[1].sources["train"].targets()[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    ids = [task.sources["train"].ids(torch.arange(40)) for task in tasks]
    assert len(torch.cat(ids).unique()) == 80


def test_changed_pixels_change_the_fingerprints(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    streams = [opened(tmp_path, "MNIST"), opened(tmp_path, "MNIST")]
    streams[0].tasks()
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    streams[1].tasks()
    assert streams[0].fingerprint() != streams[1].fingerprint()
    assert streams[0].data_fingerprint() != streams[1].data_fingerprint()
    parts = [stream.data_parts() for stream in streams]
    assert [name for name in parts[0] if parts[0][name] != parts[1][name]] == ["test/9"]


# Errors


@pytest.mark.usefixtures("no_internet")
def test_without_internet_the_error_says_which_files_go_where(tmp_path: Path) -> None:
    with pytest.raises(api.DataError) as caught:
        opened(tmp_path, "SVHN").tasks()
    message = str(caught.value)
    assert f"SVHN is not complete in {tmp_path} (--env.root)" in message
    assert f"datasets.SVHN('{tmp_path}', split='train', download=True)" in message
    assert message.endswith("it has train_32x32.mat, test_32x32.mat")


def test_misspelt_names_are_corrected() -> None:
    with pytest.raises(api.OptionError, match="no data set 'minst'.*Did you mean 'MNIST'"):
        opened(Path(), "minst")
    with pytest.raises(api.OptionError, match="pass --env.dataset MNIST"):
        opened(Path())
    with pytest.raises(api.OptionError, match="MNIST more than once"):
        opened(Path(), "MNIST", "MNIST")


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_library_has_each_data_set_with_these_arguments(name: str) -> None:
    published = CATALOGUE[name]
    cls = getattr(datasets, published.cls)
    known = {
        parameter for base in cls.__mro__[:2] for parameter in inspect.signature(base.__init__).parameters
    }
    assert {argument for arguments in published.splits.values() for argument in arguments} <= known
    assert {"root", "download"} <= known
    sources = "".join(inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("torchv"))
    attributes = [published.labels, *([published.classes] if isinstance(published.classes, str) else [])]
    for attribute in attributes:
        assert f"self.{attribute}" in sources or hasattr(cls, attribute)


def test_labels_are_read_with_the_images_where_the_library_has_no_list_of_them() -> None:
    assert labels_of([("image", 2), ("image", 5)], "labels").tolist() == [2, 5]


# A run


def test_a_run_is_trained_and_resumed(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    options = {"dataset": ["MNIST"], "root": str(tmp_path), "classes_per_task": 5, "image_size": 16}
    spec = sidetune_core.RunSpec(
        env=sidetune_core.Choice("torchvision", options),
        base=sidetune_core.Choice("conv", {"width": 8}),
        learner=sidetune_core.Choice("features"),
        train={"steps": 2, "batch_size": 8},
    )
    run = sidetune_core.run(spec, out=tmp_path / "run")
    again = sidetune_core.resume(tmp_path / "run")
    assert run.results.tasks == ("t0", "t1")
    assert again.results == run.results
