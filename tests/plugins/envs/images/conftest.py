"""Folders of images as people have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImages = Callable[..., Path]
COLOURS = {"red": (180, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 180), "grey": (90, 90, 90)}


def write_image(path: Path, colour: str = "red", rotated: bool = False) -> None:
    """An image of 20 x 14 pixels of noise around a colour; `rotated` by its EXIF data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 60, (14, 20, 3))
    pixels = (noise + np.array(COLOURS[colour])).astype(np.uint8)
    exif = Image.Exif()
    if rotated:
        exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """Writes images below ``tmp_path/photos`` from counts by folder, as ``{"train/cat": 3}``; the folder."""

    def write(counts: Mapping[str, int], suffix: str = ".png", name: str = "photos") -> Path:
        root = tmp_path / name
        colours = sorted(COLOURS)
        for number, (folder, count) in enumerate(counts.items()):
            for index in range(count):
                write_image(root / folder / f"{index}{suffix}", colours[number % len(colours)])
        return root

    return write


@pytest.fixture(scope="session")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three customers with 3, 2 and 4 classes, uneven: one with .JPG, one with photos that EXIF data rotate
    and nested folders, one with .tif; a corrupt file, hidden files, another suffix and a dangling link."""
    root = tmp_path_factory.mktemp("data") / "customers"
    colours = sorted(COLOURS)
    for customer, classes, suffix in (("acme", 3, ".JPG"), ("Bolt & Co.", 2, ".jpg"), ("Čapek", 4, ".tif")):
        for number in range(classes):
            for index in range(5 + 2 * number):
                nested = "2023" if customer == "Bolt & Co." and index % 2 else ""
                path = root / customer / f"class {number}" / nested / f"{index}{suffix}"
                write_image(path, colours[number], rotated=customer == "Bolt & Co.")
    (root / "acme" / "class 0" / "bad.jpg").write_bytes(b"no image")
    (root / "acme" / "class 0" / ".DS_Store").write_bytes(b"")
    (root / "acme" / "class 1" / "notes.txt").write_text("not an image")
    os.symlink("/nowhere/1.jpg", root / "acme" / "class 1" / "gone.jpg")
    return root
