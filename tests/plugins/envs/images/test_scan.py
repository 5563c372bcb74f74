"""One pass over all files finds every bad one, and what the others hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.images import scan
from sidetune_plugins.envs.images.pixel_cache import PixelCache
from sidetune_plugins.envs.images.preprocess import Preprocess
from sidetune_plugins.envs.images.scan import Mode, scan_files

PREPROCESS = Preprocess(8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """150 images, of which number 20 is cut, 70 missing, 90 a pipe, and 149 no image."""
    root = tmp_path_factory.mktemp("images")
    paths = [root / f"{k:03}.png" for k in range(150)]
    generator = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    paths[20].write_bytes(paths[20].read_bytes()[:-60])
    paths[70].unlink()
    paths[90].unlink()
    os.mkfifo(paths[90])
    paths[149].write_text("no image")
    return [str(path) for path in paths]


def ignore(line: str) -> None:
    """No progress."""


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_all_bad_files_are_found_in_one_pass(files: list[str], threads: int) -> None:
    bad = scan_files(files, PREPROCESS, "full", ignore, None, threads).bad
    assert list(bad) == [files[20], files[70], files[90], files[149]]
    cut, missing, pipe, text = bad.values()
    assert cut.startswith("cannot be read as an image")
    assert missing == "no such file"
    assert pipe == "is no regular file"
    assert text.startswith("cannot be read as an image: cannot identify image file")


def test_headers_find_what_cannot_be_opened_only(files: list[str]) -> None:
    bad = scan_files(files, PREPROCESS, "headers", ignore).bad
    assert list(bad) == [files[70], files[90], files[149]]


def test_names_open_nothing(files: list[str]) -> None:
    scanned = scan_files(files, PREPROCESS, "names", ignore)
    assert (scanned.bad, scanned.digests, scanned.bytes, scanned.stamps) == ({}, None, 0, None)


def test_digests_are_those_of_contents_or_of_names_and_sizes(files: list[str]) -> None:
    good = [files[k] for k in range(20)]
    contents = [Path(file).read_bytes() for file in good]
    scanned = scan_files(good, PREPROCESS, "full", ignore)
    assert scanned.digests is not None
    assert list(scanned.digests) == [hashlib.sha256(content).hexdigest() for content in contents]
    assert scanned.bytes == sum(map(len, contents))
    headers = scan_files(good, PREPROCESS, "headers", ignore).digests
    assert headers is not None
    identities = [f"{Path(file).name}\0{Path(file).stat().st_size}".encode() for file in good]
    assert list(headers) == [hashlib.sha256(identity).hexdigest() for identity in identities]


@pytest.mark.parametrize("room", [200, 100])
def test_the_cache_has_the_first_images_that_fit_by_their_number(files: list[str], room: int) -> None:
    cache = PixelCache(room * 3 * 8 * 8, len(files), 8)
    bad = scan_files(files, PREPROCESS, "full", ignore, cache).bad
    good = [k for k, file in enumerate(files) if file not in bad][:room]
    assert cache.has(torch.arange(len(files))).nonzero()[:, 0].tolist() == good
    expected = torch.stack([PREPROCESS.decode(files[k]) for k in good])
    assert torch.equal(cache.get(torch.tensor(good)), expected)


@pytest.mark.parametrize("mode", ["full", "headers"])
def test_progress_is_reported(files: list[str], mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(scan, "INFO_SECONDS", 0)
    scan_files(files, PREPROCESS, mode, lines.append)
    assert lines[0].startswith("read 64 of 150 images, ")
    assert [line.split()[1] for line in lines] == ["64", "128", "150"]
