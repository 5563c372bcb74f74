"""A file of any mode becomes the pixels that networks are evaluated on, or is refused in a sentence."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sidetune_plugins.envs._image_files import ignore_warnings
from sidetune_plugins.envs._image_squares import Interpolation
from sidetune_plugins.envs.images.preprocess import Preprocess
from torchvision import io, transforms

from sidetune_core.api import InputError

SIZE = 12
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


def decoded(path: str) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3), of an image of that size, which is not resized."""
    array: NDArray[np.uint8] = Preprocess(SIZE).decode(path).permute(1, 2, 0).numpy()
    return array


def test_by_default_the_largest_centred_square_is_resized_bilinearly(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 51, 3), dtype=np.uint8))
    expected = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)
    assert (decoded(saved(tmp_path / "x.png", image)) == np.array(expected)).all()


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (9, 100), (30, 30)])
@pytest.mark.parametrize(
    ("interpolation", "crop", "shorter"),
    [("bicubic", 1.0, 24), ("bicubic", 0.9, 26), ("bilinear", 0.875, 27), ("bilinear", 24 / 29, 29)],
)
def test_other_values_are_the_evaluation_transforms_of_torchvision_and_timm(
    tmp_path: Path, height: int, width: int, interpolation: Interpolation, crop: float, shorter: int
) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    ours = Preprocess(24, interpolation, crop).decode(saved(tmp_path / "x.png", image))
    theirs = transforms.Compose(
        [
            transforms.Resize(shorter, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(24),
            transforms.PILToTensor(),
        ]
    )
    assert torch.equal(ours, theirs(image))
    timms = timm.data.create_transform(24, interpolation=interpolation, crop_pct=crop, normalize=False)
    assert torch.equal(ours, timms(image))


def test_a_fraction_above_one_adds_a_border_as_timm_does(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    theirs = timm.data.create_transform(24, interpolation="bicubic", crop_pct=1.15, normalize=False)
    ours = Preprocess(24, "bicubic", 1.15).decode(saved(tmp_path / "x.png", image))
    assert torch.equal(ours, theirs(image))


def test_files_are_rotated_as_their_exif_data_says(tmp_path: Path) -> None:
    upright = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE, -1),
        7: np.rot90(NOISE, 2).transpose(1, 0, 2),
        8: np.rot90(NOISE, 1),
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "tif"):
            path = saved(tmp_path / f"{orientation}.{suffix}", Image.fromarray(NOISE), exif=exif)
            assert (decoded(path) == expected).all(), (orientation, suffix)


@pytest.mark.filterwarnings("ignore:.*TorchCodec")
def test_files_of_8_bits_are_decoded_as_by_torchvision(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    for mode in ("RGB", "L", "LA", "RGBA", "1"):
        path = saved(tmp_path / f"{mode}.png", image.convert(mode))
        theirs = io.decode_image(io.read_file(path))
        colours = theirs[:-1] if mode in ("LA", "RGBA") else theirs  # without transparency
        assert torch.equal(Preprocess(SIZE).decode(path), colours.expand(3, -1, -1)), mode


@pytest.mark.filterwarnings("ignore:Palette images")
def test_palettes_and_first_frames_are_decoded(tmp_path: Path) -> None:
    colours = np.arange(256, dtype=np.uint8)[::-1]
    palette = Image.fromarray(NOISE[:, :, 0], "L")
    palette.putpalette(np.stack([colours, colours // 2, colours // 3], 1).tobytes())
    first = np.stack([colours, colours // 2, colours // 3], 1)[NOISE[:, :, 0]]
    assert palette.mode == "P"
    assert (decoded(saved(tmp_path / "p.png", palette)) == first).all()
    assert (decoded(saved(tmp_path / "t.png", palette, transparency=bytes(range(256)))) == first).all()
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.new("P", (SIZE, SIZE))]}
    assert (decoded(saved(tmp_path / "x.gif", palette, **frames)) == first).all()
    assert (decoded(saved(tmp_path / "x.tif", palette, compression="tiff_lzw", **frames)) == first).all()


def test_ink_is_subtracted_from_white(tmp_path: Path) -> None:
    planes = np.concatenate([NOISE, np.zeros((SIZE, SIZE, 1), np.uint8)], 2)
    path = saved(tmp_path / "x.tif", Image.frombytes("CMYK", (SIZE, SIZE), planes.tobytes()))
    assert (decoded(path) == 255 - NOISE).all()


def test_no_warning_is_printed(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE[:, :, 0], "L").convert("P")
    large = saved(tmp_path / "large.png", Image.fromarray(np.tile(NOISE, (800, 800, 1))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_warnings()
        Preprocess(SIZE).decode(saved(tmp_path / "x.png", image, transparency=bytes(range(256))))
        Preprocess(SIZE).decode(large)
    assert caught == []


def test_files_that_are_no_8_bit_images_are_refused_by_name(tmp_path: Path) -> None:
    deep = saved(tmp_path / "deep.png", Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257))
    floats = saved(tmp_path / "floats.tif", Image.fromarray(NOISE[:, :, 0].astype(np.float32)))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    cut = tmp_path / "cut.jpg"
    Image.fromarray(NOISE).save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    bomb = saved(tmp_path / "bomb.png", Image.new("1", (20000, 20000)))
    reasons = {
        deep: "more than 8 bits per channel",
        floats: "more than 8 bits per channel",
        str(tmp_path / "empty.jpg"): "cannot identify image file",
        str(tmp_path / "text.jpg"): "cannot identify image file",
        str(cut): "truncated",
        bomb: "decompression bomb",
        str(tmp_path / "none.jpg"): "no such file",
        str(tmp_path): "is a folder",
    }
    for path, reason in reasons.items():
        with pytest.raises(InputError, match=reason) as caught:
            Preprocess(SIZE).decode(path)
        assert str(caught.value).startswith(path)


def test_whatever_the_decoder_raises_for_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for suffix in ("jpg", "png", "webp", "gif", "bmp"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(NOISE).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[generator.integers(0, len(content), 5)] = generator.integers(0, 256, 5)
            path.write_bytes(damaged.tobytes())
            with suppress(InputError):
                assert Preprocess(SIZE).decode(str(path)).shape == (3, SIZE, SIZE)
