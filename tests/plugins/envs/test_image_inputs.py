"""Raw images of users become what tasks were trained on, or are refused in a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.images.preprocess import Preprocess
from sidetune_plugins.envs.images.source import ImageFiles

from sidetune_core import api
from sidetune_core.assembly.cards import make_card, make_handler
from sidetune_core.config import kinds, registry
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec

SIZE = 8


def photo(
    path: Path, height: int = 13, width: int = 10, mode: str = "RGB", seed: int = 0, **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def folder(root: Path) -> Path:
    """Two classes, with files of all modes, a rotated one, and several sizes."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            place = root / split / name
            photo(place / "a.png", seed=label)
            photo(place / "b.jpg", 9, 30, seed=label)
            photo(place / "grey.png", mode="L", seed=label)
            photo(place / "palette.png", 8, 8, mode="P", seed=label)
            photo(place / "transparent.webp", 20, 20, mode="RGBA", seed=label)
            exif = Image.Exif()
            exif[0x0112] = 6
            photo(place / "rotated.jpg", 40, 10, seed=label, exif=exif)
    return root


def env_and_task(name: str, **options: Any) -> tuple[api.Task, api.TaskHandler]:
    """The first task of an env, and the handler of its card."""
    cls = registry.load(registry.find(kinds.ENV, name))
    task = cls(cls.Config(**options), 0).tasks()[0]
    env = {
        "name": name,
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    }
    card = make_card(task, resolve(RunSpec(env=env)), "")
    handler = make_handler(api.TaskCard.from_json(card.to_json()), Path("card.json"))
    assert handler is not None
    return task, handler


def evaluated_images(task: api.Task) -> torch.Tensor:
    """The inputs on which a task is evaluated."""
    batches = []

    def predict(inputs: api.Inputs) -> torch.Tensor:
        batches.append(inputs["image"])
        return torch.zeros(len(inputs["image"]), task.outputs.size or 1)

    task.evaluate(predict)
    return torch.cat(batches)


@pytest.fixture
def handler(tmp_path: Path) -> api.TaskHandler:
    return env_and_task("images", root=(folder(tmp_path / "data"),), image_size=SIZE)[1]


def image_of(handler: api.TaskHandler, value: Any) -> torch.Tensor:
    """(3, SIZE, SIZE)."""
    return handler.preprocess([value]).inputs["image"][0]


def test_files_become_bit_for_bit_what_was_evaluated(tmp_path: Path) -> None:
    root = folder(tmp_path)
    task, handler = env_and_task("images", root=(root,), image_size=SIZE)
    files = sorted((root / "test" / "cat").iterdir()) + sorted((root / "test" / "dog").iterdir())
    assert handler.preprocess(files).inputs["image"].equal(evaluated_images(task))


@pytest.mark.parametrize("size", [8, 12, 30])
def test_arrays_become_bit_for_bit_what_an_archive_was_evaluated_as(tmp_path: Path, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 12, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    path = tmp_path / "a.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    task, handler = env_and_task("images", archive=path, image_size=size)
    assert handler.preprocess(images).inputs["image"].equal(evaluated_images(task))


def test_class_names_are_those_of_the_folders(handler: api.TaskHandler) -> None:
    assert handler.card.outputs.names == ("cat", "dog")


def test_logits_become_classes_with_probabilities(handler: api.TaskHandler) -> None:
    examples = handler.preprocess(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    (prediction,) = handler.postprocess(torch.tensor([[0.0, 2.0]]), examples)
    assert prediction.to_json()["label"] == "dog"


def as_written(pixels: np.ndarray) -> dict[str, Any]:
    """An image (H, W, 3) of bytes in all the ways in which it can be given."""
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return {
        "array": pixels,
        "planes": planes.numpy(),
        "tensor": planes,
        "Pillow image": Image.fromarray(pixels),
        "floats": pixels / 255,
        "float tensor": planes.float() / 255,
        "by name": {"image": pixels},
        "transparent": np.concatenate([pixels, pixels[..., :1]], 2),
    }


@pytest.mark.parametrize("kind", as_written(np.zeros((1, 1, 3), np.uint8)))
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (20, 11)])
def test_an_image_is_the_same_in_whatever_way_it_is_given(
    handler: api.TaskHandler, tmp_path: Path, kind: str, shape: tuple[int, int]
) -> None:
    path = photo(tmp_path / "x.png", *shape)
    value = as_written(np.array(Image.open(path)))[kind]
    assert image_of(handler, value).equal(image_of(handler, path))


def test_a_grey_array_is_repeated_over_channels(handler: api.TaskHandler) -> None:
    image = image_of(handler, np.full((SIZE, SIZE), 51, np.uint8))
    assert image.equal(torch.full((3, SIZE, SIZE), 51).float() / 255)


@pytest.mark.parametrize(
    ("value", "several"),
    [
        (np.zeros((2, SIZE, SIZE, 3)), True),
        (torch.zeros(2, 3, SIZE, SIZE), True),
        ([np.zeros((SIZE, SIZE, 3))], True),
        ({"image": np.zeros((2, SIZE, SIZE, 3))}, True),
        (np.zeros((SIZE, SIZE, 3)), False),
        ({"image": np.zeros((SIZE, SIZE, 3))}, False),
        ("a.png", False),
    ],
)
def test_several_images_are_a_list_or_have_a_further_axis(
    handler: api.TaskHandler, value: Any, several: bool
) -> None:
    assert handler.is_batch(value) == several


def test_bytes_become_floats_in_an_exported_network(handler: api.TaskHandler) -> None:
    pixels = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    transform = handler.transform()
    assert transform(pixels).equal(transform(transform(pixels)))


FLOATS = np.zeros((SIZE, SIZE, 3), np.float32)
WRONG: dict[str, tuple[Any, str]] = {
    "values up to 255": (FLOATS + 200, "up to 200; expected floats in \\[0, 1\\]: divide by 255"),
    "values just above 1": (FLOATS + np.float32(1.0001), r"up to 1\.0001;"),
    "standardised": (FLOATS - 1.5, "down to -1.5"),
    "NaN": (FLOATS * np.nan, "NaN"),
    "infinite": (FLOATS + np.inf, "infinite"),
    "16 bits": (np.zeros((SIZE, SIZE, 3), np.uint16), "type uint16; expected uint8"),
    "integers": (torch.zeros(3, SIZE, SIZE, dtype=torch.int64), "type int64; expected uint8"),
    "two channels": (np.zeros((SIZE, SIZE, 2), np.uint8), r"shape \(8, 8, 2\); expected \(H, W, 3\)"),
    "one axis": (np.zeros(5, np.uint8), r"shape \(5,\)"),
    "a batch in a list": (np.zeros((2, SIZE, SIZE, 3), np.uint8), "give a batch as it is"),
    "tensor with channels last": (torch.zeros(SIZE, SIZE, 3), r"expected \(3, H, W\)"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    "text array": (np.array([["a"]]), "type <U1"),
    "missing file": ("nowhere.png", r"\(nowhere.png\): no such file"),
    "wrong key": ({"photo": FLOATS}, r"keys \['photo'\]; expected 'image'"),
    "None": (None, "None; expected the path of an image"),
    "encoded bytes": (b"\x89PNG", "type bytes"),
    "deep Pillow image": (Image.fromarray(np.zeros((9, 9), np.uint16)), "more than 8 bits"),
    "complex tensor": (torch.zeros(3, 8, 8, dtype=torch.complex64), "no plain tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_named_and_refused(handler: api.TaskHandler, case: str) -> None:
    value, message = WRONG[case]
    with pytest.raises(api.InputError, match=message) as caught:
        handler.preprocess([FLOATS, value])
    assert str(caught.value).startswith("input 1")


def test_an_empty_batch_is_refused(handler: api.TaskHandler) -> None:
    with pytest.raises(api.InputError, match="empty"):
        handler.preprocess([])


def test_a_damaged_file_is_refused(handler: api.TaskHandler, tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(api.InputError, match="x.png cannot be read as an image"):
        handler.preprocess([path])


def test_a_folder_is_no_image(handler: api.TaskHandler, tmp_path: Path) -> None:
    with pytest.raises(api.InputError, match="is a folder"):
        handler.preprocess([tmp_path])


@pytest.mark.parametrize("preprocess", [Preprocess(SIZE, "bicubic", 0.9), Preprocess(SIZE)])
def test_files_and_images_are_preprocessed_as_the_card_says(
    handler: api.TaskHandler, tmp_path: Path, preprocess: Preprocess
) -> None:
    card = attrs.evolve(handler.card, values=preprocess.card())
    handler = type(handler)(api.TaskCard.from_json(card.to_json()))
    path = photo(tmp_path / "x.png", 31, 20)
    source = ImageFiles([str(path)], torch.tensor([0]), torch.tensor([0]), preprocess)
    (trained,) = source.read([api.Request(torch.tensor([0]))])
    pixels = np.array(Image.open(path))
    for value in (path, Image.open(path), pixels, pixels / 255):
        assert torch.equal(image_of(handler, value), trained.inputs["image"][0])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"interpolation": "lanczos"}, "'interpolation' is 'lanczos', expected bilinear or bicubic"),
        ({"crop_fraction": "all"}, "'crop_fraction' is 'all', expected a number from 0.1 to 2.0"),
        ({"crop_fraction": 1e-9}, "'crop_fraction' is 1e-09, expected a number from 0.1 to 2.0"),
        ({"resize": "torch", "crop_fraction": 0.9}, "'resize' is 'torch', which has no interpolation"),
    ],
)
def test_a_card_with_other_values_is_refused(
    handler: api.TaskHandler, values: dict[str, Any], words: str
) -> None:
    card = attrs.evolve(handler.card, values={"resize": "pillow", **values})
    with pytest.raises(ValueError, match=re.escape(words)):
        type(handler)(card)


@pytest.mark.parametrize("values", [{}, {"resize": "none"}, {"resize": 3}])
def test_a_card_of_another_env_is_refused(handler: api.TaskHandler, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="resize"):
        type(handler)(attrs.evolve(handler.card, values=values))
