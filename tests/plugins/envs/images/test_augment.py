"""Augmentation is torchvision's, and a function of its generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs._image_squares import Interpolation
from sidetune_plugins.envs.images.augment import Augment, batch_augment, crop_flip, crop_flip_each
from sidetune_plugins.envs.images.preprocess import Preprocess
from torchvision.transforms import InterpolationMode, v2


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 61, 3), (3, 200, 3), (200, 3, 3)])
def test_random_parts_and_colours_are_those_of_torchvision(
    tmp_path: Path, interpolation: Interpolation, shape: tuple[int, ...]
) -> None:
    image = Image.fromarray(noise(*shape))
    image.save(tmp_path / "x.png")
    parts = [
        v2.RandomResizedCrop(24, interpolation=InterpolationMode(interpolation)),
        v2.RandomHorizontalFlip(),
    ]
    colours = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    theirs = {
        "resized-crop": v2.Compose([*parts, v2.PILToTensor()]),
        "resized-crop-color": v2.Compose([*parts, colours, v2.PILToTensor()]),
    }
    augment: Augment
    for augment in ("resized-crop", "resized-crop-color"):
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            ours = Preprocess(24, interpolation).decode(str(tmp_path / "x.png"), generator, augment)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                assert torch.equal(ours, theirs[augment](image))


def test_the_global_generator_is_not_used() -> None:
    state = torch.get_rng_state()
    augment = batch_augment("resized-crop-color")
    assert augment is not None
    augment(torch.from_numpy(noise(4, 3, 16, 16)), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_images_keep_their_shape_and_differ_from_each_other(channels: int) -> None:
    pixels = torch.from_numpy(noise(1, channels, 16, 16)).expand(6, -1, -1, -1)
    augment = batch_augment("resized-crop")
    assert augment is not None
    result = augment(pixels, torch.Generator().manual_seed(0))
    assert (result.shape, result.dtype) == (pixels.shape, torch.uint8)
    assert len({image.numpy().tobytes() for image in result}) == 6


def test_one_shift_for_each_seed_is_that_of_a_batch_of_one() -> None:
    pixels = torch.from_numpy(noise(5, 3, 16, 16))
    one_by_one = [
        crop_flip(image[None], torch.Generator().manual_seed(seed)) for seed, image in enumerate(pixels)
    ]
    assert torch.equal(crop_flip_each(pixels, range(5)), torch.cat(one_by_one))


def test_none_is_no_augmentation() -> None:
    assert batch_augment("none") is None
