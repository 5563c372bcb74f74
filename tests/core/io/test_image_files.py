"""The size that the header of an image states is not believed."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import pytest
from PIL import Image

from sidetune_core.io.image_files import WEBP_HEADER, open_image, webp_size

LARGEST = 2**24


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {"lossless": True}), ("RGB", {"quality": 50}), ("RGBA", {"quality": 50})],
    ids=["lossless", "lossy", "extended"],
)
def test_the_size_of_a_webp_file_is_that_of_its_header(mode: str, options: dict[str, object]) -> None:
    data = encoded(Image.effect_noise((37, 300), 50).convert(mode), "WEBP", **options)
    assert webp_size(data[:WEBP_HEADER]) == (37, 300)


def test_other_formats_and_cut_headers_have_no_webp_size() -> None:
    image = Image.new("RGB", (3, 3))
    assert webp_size(encoded(image, "PNG")[:WEBP_HEADER]) is None
    assert webp_size(encoded(image, "WEBP")[:20]) is None


def test_a_large_photograph_is_opened(tmp_path: Path) -> None:
    noise = Image.frombytes("L", (9000, 9000), os.urandom(9000) * 9000)
    (tmp_path / "x.jpg").write_bytes(encoded(noise, "JPEG", quality=20))
    with open_image(tmp_path / "x.jpg") as image:
        assert image.size == (9000, 9000)


def test_a_webp_header_of_an_absurd_size_is_refused_before_pillow_allocates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = struct.pack("<I", LARGEST - 1)[:3]
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + size + size
    (tmp_path / "x.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail("Pillow was asked"))
    with pytest.raises(ValueError, match=f"states {LARGEST} x {LARGEST} pixels, and has 30 bytes"):
        open_image(tmp_path / "x.webp")


def test_a_large_image_of_one_colour_is_refused(tmp_path: Path) -> None:
    Image.new("1", (12000, 12000)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="states 12000 x 12000 pixels"):
        open_image(tmp_path / "x.png")
