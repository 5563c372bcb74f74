"""Dense tasks that are used without their data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from sidetune_core import api
from sidetune_core.assembly.cards import make_card, make_handler
from sidetune_core.config import kinds, registry
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec

Write = Callable[..., Path]
SMALL = {"image_size": 16, "decoder_width": 16}


def tasks_of(name: str, **options: Any) -> list[api.Task]:
    cls = registry.load(registry.find(kinds.ENV, name))
    return list(cls(cls.Config(**{**SMALL, **options}), 0).tasks())


def handler_of(task: api.Task, name: str) -> api.TaskHandler:
    options = {"root": "."} if name != "rooms" else {}
    card = make_card(task, resolve(RunSpec(env={"name": name, **options})), "")
    handler = make_handler(api.TaskCard.from_json(card.to_json()), Path("card.json"))
    assert handler is not None
    return handler


def evaluated_images(task: api.Task) -> torch.Tensor:
    batches = []

    def predict(inputs: api.Inputs) -> torch.Tensor:
        batches.append(inputs["image"])
        return torch.zeros(len(inputs["image"]), task.outputs.size or 1, *inputs["image"].shape[2:])

    task.evaluate(predict)
    return torch.cat(batches)


@pytest.fixture
def frames(write_frames: Write, tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames", count=4)


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[api.Task]:
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path))
    domains = ("depth_zbuffer", "segment_semantic", "class_room")
    return tasks_of("rooms", image_size=32, num_images=8, num_test_images=1, domains=domains)


def test_frames_become_bit_for_bit_what_was_evaluated(frames: Path) -> None:
    task = tasks_of("rgbd", root=frames)[0]
    inputs = handler_of(task, "rgbd").preprocess([frames / "003-rgb.png"]).inputs
    assert inputs["image"].equal(evaluated_images(task))


def test_a_frame_that_is_no_square_is_cropped_as_in_training(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 21, 40, 3), dtype=np.uint8)
    depth, intrinsics = np.full((2, 21, 40), 2000, np.uint16), np.array([[9, 0, 20], [0, 9, 10], [0, 0, 1.0]])
    np.savez(tmp_path / "a.npz", rgb=rgb, depth_mm=depth, K=intrinsics)
    task = tasks_of("rgbd", archive=tmp_path / "a.npz")[0]
    inputs = handler_of(task, "rgbd").preprocess(rgb[1:]).inputs
    assert inputs["image"].equal(evaluated_images(task))


def test_photographs_of_buildings_become_bit_for_bit_what_was_evaluated(
    write_taskonomy: Write, tmp_path: Path
) -> None:
    root = write_taskonomy(tmp_path / "data", domains=("rgb", "normal", "depth_zbuffer"))
    (task,) = tasks_of(
        "taskonomy", root=root, domains=("normal",), cache_dir=tmp_path / "cache",
        train_buildings=("hanson",), test_buildings=("merom",),
    )  # fmt: skip
    files = sorted((root / "rgb" / "merom").iterdir())
    assert handler_of(task, "taskonomy").preprocess(files).inputs["image"].equal(evaluated_images(task))


def test_a_rendered_room_stays_what_it_is(rooms: list[api.Task]) -> None:
    image = evaluated_images(rooms[0])
    pixels = (image * 255).round().to(torch.uint8)
    assert handler_of(rooms[0], "rooms").preprocess(pixels).inputs["image"].equal(image)


def test_depth_is_in_metres(frames: Path) -> None:
    handler = handler_of(tasks_of("rgbd", root=frames, max_depth=5.0)[0], "rgbd")
    examples = handler.preprocess([frames / "003-rgb.png"])
    (prediction,) = handler.postprocess(torch.full((1, 1, 16, 16), 0.5), examples)
    assert isinstance(prediction, api.MapPrediction)
    assert (prediction.unit, float(prediction.values[0, 0, 0])) == ("m", 3.75)


def test_depth_of_a_room_is_what_the_image_was_rendered_with(rooms: list[api.Task]) -> None:
    stored = 12345  # of 65536 for 12 m, see labels.INDOORS
    handler = handler_of(rooms[0], "rooms")
    output = torch.full((1, 1, 16, 16), stored / 32767.5 - 1)
    (prediction,) = handler.postprocess(output, api.Preprocessed(api.Inputs({}), 1))
    assert isinstance(prediction, api.MapPrediction)
    assert float(prediction.values[0, 0, 0]) == pytest.approx(stored * 12 / 65536)


def test_normals_are_vectors(frames: Path) -> None:
    handler = handler_of(tasks_of("rgbd", root=frames)[1], "rgbd")
    output = torch.rand(1, 3, 16, 16)
    (prediction,) = handler.postprocess(output, handler.preprocess([frames / "003-rgb.png"]))
    assert isinstance(prediction, api.MapPrediction)
    assert prediction.names == ("x", "y", "z")
    assert np.array_equal(prediction.values, output[0].numpy())


def test_classes_of_pixels_have_probabilities_and_names(rooms: list[api.Task]) -> None:
    handler = handler_of(rooms[1], "rooms")
    (prediction,) = handler.postprocess(torch.zeros(1, 18, 16, 16), api.Preprocessed(api.Inputs({}), 1))
    assert isinstance(prediction, api.MapPrediction)
    assert (prediction.names[3], prediction.unit) == ("chair", "probability")
    assert prediction.values.sum(0) == pytest.approx(np.ones((16, 16)))


def test_a_label_of_an_image_is_a_class(rooms: list[api.Task]) -> None:
    handler = handler_of(rooms[2], "rooms")
    (prediction,) = handler.postprocess(torch.eye(8)[2:3], api.Preprocessed(api.Inputs({}), 1))
    assert isinstance(prediction, api.ClassPrediction)
    assert prediction.label == "corridor"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_heads_are_made_without_the_data(rooms: list[api.Task], index: int) -> None:
    task = rooms[index]
    made = handler_of(task, "rooms").make_head((8, 1, 1)).state_dict()
    made_from_data = task.make_head((8, 1, 1)).state_dict()
    assert {name: value.shape for name, value in made.items()} == {
        name: value.shape for name, value in made_from_data.items()
    }


def test_an_image_that_is_too_small_is_refused_as_in_training(frames: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 15)).save(tmp_path / "small.png")
    with pytest.raises(api.InputError, match=r"small.png has 15 x 40 pixels; expected 16 x 16 or more"):
        handler_of(tasks_of("rgbd", root=frames)[0], "rgbd").preprocess([tmp_path / "small.png"])


@pytest.mark.parametrize("change", [{"width": 10**9}, {"width": True}, {"per_image": 1}, {"metres": "x"}])
def test_values_of_a_stranger_are_checked(rooms: list[api.Task], change: dict[str, Any]) -> None:
    handler = handler_of(rooms[0], "rooms")
    with pytest.raises(ValueError, match=f"{next(iter(change))}'"):
        type(handler)(attrs.evolve(handler.card, values={**handler.card.values, **change}))
