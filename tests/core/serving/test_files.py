from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sidetune_core
from sidetune_core.serving.files import Failed, Predicted, find_files, predict_files
from sidetune_core.serving.model import Model


@pytest.fixture(scope="module")
def model(digits_run: Path) -> Model:
    return sidetune_core.load(digits_run)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, with a damaged one, a hidden one and a text."""
    for index, name in enumerate(("b.png", "a.jpg", "sub/c.png", ".hidden.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def predict(model: Model, *paths: Path, size: int = 2) -> tuple[list[Predicted], list[Failed], list[str]]:
    notices: list[str] = []
    results = list(predict_files(model, ["t0", "t1"], paths, size, notices.append))
    predicted = [result for result in results if isinstance(result, Predicted)]
    return predicted, [result for result in results if isinstance(result, Failed)], notices


@pytest.mark.parametrize("size", [1, 2, 64])
def test_files_of_a_folder_are_predicted_in_the_order_of_their_names(
    model: Model, photos: Path, size: int
) -> None:
    predicted, _, _ = predict(model, photos, size=size)
    assert [Path(result.name).relative_to(photos).as_posix() for result in predicted] == [
        "a.jpg",
        "b.png",
        "sub/c.png",
    ]


@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_file_that_cannot_be_read_does_not_stop_the_others(model: Model, photos: Path, size: int) -> None:
    predicted, failed, _ = predict(model, photos, size=size)
    assert len(predicted) == 3
    assert [Path(failure.name).name for failure in failed] == ["bad.png"]


def test_predictions_are_those_of_the_model(model: Model, photos: Path) -> None:
    predicted, _, _ = predict(model, photos / "a.jpg")
    expected = model.predict(photos / "a.jpg", tasks="all")
    assert predicted[0].predictions == expected


def test_what_is_skipped_is_noticed(model: Model, photos: Path) -> None:
    _, _, notices = predict(model, photos)
    suffixes = ".png, .jpg, .jpeg, .bmp, .webp, .tif, .tiff, .gif"
    assert notices == [f"{photos}: skipped 1 hidden file and 1 with other suffixes than {suffixes}"]


def test_a_file_that_is_named_is_read_whatever_its_suffix(model: Model, photos: Path) -> None:
    (photos / "photo.data").write_bytes((photos / "b.png").read_bytes())
    predicted, _, _ = predict(model, photos / "photo.data")
    assert len(predicted) == 1


def test_a_missing_file_is_named_once(model: Model, tmp_path: Path) -> None:
    _, failed, _ = predict(model, tmp_path / "gone.png")
    assert str(failed[0]) == f"{tmp_path}/gone.png: no such file"


def test_a_folder_without_images_fails(tmp_path: Path) -> None:
    (failure,) = find_files([tmp_path], (".png",), print)
    assert str(failure) == f"{tmp_path}: has no files with suffix .png"
