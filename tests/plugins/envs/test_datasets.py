"""Env 'datasets': ids of the tasks, what distinguishes the data, and predictions on raw inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sidetune_core
from sidetune_core import Task
from sidetune_core.api import InputError, OptionError
from sidetune_core.cli import main
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load

Datasets = load(find(ENV, "datasets"))
TRAIN = {"steps": 1, "batch_size": 4}


def make(tasks: list[Any]) -> Any:
    return Datasets.from_object(tasks, Datasets.Config(), 0)


def images(*targets: Any, size: int = 8) -> Any:
    return [(torch.full((3, size, size), row / 10), target) for row, target in enumerate(targets)]


def run(task: Any, folder: Path) -> Any:
    options = {"base": "conv", "side": "copy", "train": TRAIN, "device": {"name": "cpu"}}
    return sidetune_core.load(sidetune_core.run(tasks=[task], out=folder, **options).folder.path)


def test_tasks_without_an_id_are_numbered_and_the_given_ones_stay_as_they_are() -> None:
    task = Task.from_dataset(images(0, 1), images(0))
    named = Task.from_dataset(images(0, 1), images(0), id="photos")
    assert [one.id for one in make([task, named, task]).tasks()] == ["t0", "photos", "t2"]
    assert task.id == ""


def test_the_cache_on_disk_is_shared_only_if_the_user_names_the_data() -> None:
    task = Task.from_dataset(images(0, 1), images(0))
    named = Task.from_dataset(images(0, 1), images(0), data="v1")
    assert make([task]).fingerprint() == ""
    assert make([task]).data_fingerprint()
    assert make([named]).fingerprint() == make([named]).data_fingerprint()


def test_the_data_has_parts_by_task_split_and_class() -> None:
    parts = make([Task.from_dataset(images(0, 1, 1), images(0), classes=["cat", "dog"])]).data_parts()
    assert {name: part.count for name, part in parts.items()} == {
        "t0/train/cat": 1,
        "t0/train/dog": 2,
        "t0/test/cat": 1,
    }


def test_what_was_converted_is_reported_once() -> None:
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    task = Task.from_dataset([(pixels, 0)], [(pixels, 0)])
    stream, lines = make([task, task]), list[str]()
    stream.info = lines.append
    stream.tasks()
    assert len(lines) == 1
    assert "Pillow images are converted" in lines[0]


def test_no_command_can_choose_it() -> None:
    with pytest.raises(OptionError, match=r"sidetune_core.run\(tasks=\["):
        Datasets(Datasets.Config(), 0)


def test_labels_and_values_are_trained_and_predicted(tmp_path: Path) -> None:
    labels = run(
        Task.from_dataset(images([1, 0], [0, 1]), images([1, 1]), labels=["red", "big"]), tmp_path / "a"
    )
    values = run(
        Task.from_dataset(images([1.0, 2], [0, 1]), images([1, 1.0]), values=["x", "y"]), tmp_path / "b"
    )
    image = torch.rand(3, 8, 8)
    assert set(labels.predict(image).to_json()["probabilities"]) == {"red", "big"}
    assert set(values.predict(image).to_json()["values"]) == {"x", "y"}


def test_raw_inputs_are_those_of_the_dataset(tmp_path: Path) -> None:
    model = run(Task.from_dataset(images(0, 1), images(0)), tmp_path / "run")
    pixels = np.full((3, 8, 8), 51, np.uint8)
    same = [model.predict(value) for value in (pixels, torch.full((3, 8, 8), 0.2))]
    assert same[0] == same[1]
    assert len(model.predict(torch.rand(5, 3, 8, 8))) == 5
    for value, message in (
        ("a.png", "give an array or tensor .* made with image_size="),
        (torch.rand(3, 9, 9), r"shape \(3, 9, 9\), expected \(3, 8, 8\)"),
        (torch.rand(3, 8, 8) * 255, "in .0, 1.: divide by 255, or give uint8"),
    ):
        with pytest.raises(InputError, match=message):
            model.predict(value)


def test_standardised_inputs_are_taken_as_they_are(tmp_path: Path) -> None:
    task = Task.from_dataset(images(0, 1), images(0), transform=lambda image: image * 8 - 4)
    assert "images have values from -4" in task.notes[0]
    assert run(task, tmp_path / "run").predict(torch.full((3, 8, 8), -4.0)).label in ("0", "1")


def test_images_of_any_size_are_taken_by_tasks_made_with_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = [Image.fromarray(np.full((9, 12, 3), value, np.uint8)) for value in (0, 200)]
    dataset = [(image, number) for number, image in enumerate(pixels)]
    model = run(Task.from_dataset(dataset, dataset, image_size=8), tmp_path / "run")
    pixels[1].save(tmp_path / "photo.png")
    assert model.predict(pixels[1]) == model.predict(tmp_path / "photo.png")
    assert main.main(["predict", str(tmp_path / "run"), str(tmp_path / "photo.png")]) == 0
    assert "photo.png" in capsys.readouterr().out
