"""What is read from files is a function of the request, and no thread outlives the reading."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.images import source
from sidetune_plugins.envs.images.augment import Augment
from sidetune_plugins.envs.images.pixel_cache import PixelCache
from sidetune_plugins.envs.images.preprocess import Preprocess
from sidetune_plugins.envs.images.scan import scan_files
from sidetune_plugins.envs.images.source import ImageFiles

from sidetune_core.api import DataError, LoadedExamples, Request

COUNT, SIZE = 40, 8
PREPROCESS = Preprocess(SIZE)


def write_images(root: Path) -> list[str]:
    generator = np.random.default_rng(0)
    paths = [root / f"{k}.png" for k in range(COUNT)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (11, 9, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_images(tmp_path_factory.mktemp("images"))


def make(files: list[str], **options: Any) -> ImageFiles:
    return ImageFiles(files, torch.arange(COUNT) % 3, torch.arange(COUNT), PREPROCESS, **options)


def requests(seeded: bool = True, count: int = 9) -> Iterator[Request]:
    generator = torch.Generator().manual_seed(0)
    for step in range(count):
        yield Request(torch.randint(0, COUNT, (16,), generator=generator), step if seeded else None)


def images(source: ImageFiles, seeded: bool = True) -> torch.Tensor:
    """All batches, (9 * 16, 3, SIZE, SIZE)."""
    return torch.cat([examples.inputs["image"] for examples in source.read(requests(seeded))])


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_example_is_its_file_in_the_unit_interval(files: list[str]) -> None:
    (examples,) = make(files).read([Request(torch.tensor([7, 3]))])
    expected = torch.stack([PREPROCESS.decode(files[7]), PREPROCESS.decode(files[3])])
    assert torch.equal((examples.inputs["image"] * 255).round().byte(), expected)
    assert examples.inputs["image"].dtype == torch.float32
    assert examples.targets.tolist() == [1, 0]


@pytest.mark.parametrize("augment", ["none", "crop-flip", "resized-crop-color"])
def test_threads_and_the_cache_change_nothing(files: list[str], augment: Augment) -> None:
    expected = images(make(files, augment=augment, threads=0))
    for threads in (1, 3):
        assert torch.equal(images(make(files, augment=augment, threads=threads)), expected)
    for room in (10, COUNT):
        cached = make(files, augment=augment, cache=PixelCache(room * 3 * SIZE**2, COUNT, SIZE))
        for _ in range(2):
            assert torch.equal(images(cached), expected)


@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop"])
def test_augmentation_is_a_function_of_the_seed_and_the_position(files: list[str], augment: Augment) -> None:
    def read(*requests: Request) -> list[torch.Tensor]:
        return [examples.inputs["image"] for examples in make(files, augment=augment).read(iter(requests))]

    rows = torch.zeros(12, dtype=torch.int64)
    alone, short, other, plain = read(Request(rows, 5), Request(rows[:3], 5), Request(rows, 6), Request(rows))
    assert torch.equal(read(Request(rows, 6), Request(rows, 5))[1], alone)
    assert torch.equal(alone[:3], short)
    assert not torch.equal(alone, other)
    assert len({image.numpy().tobytes() for image in alone}) > 4
    assert torch.equal(plain, plain[:1].expand_as(plain))


def test_once_cached_no_file_is_opened(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    source = make(files, cache=PixelCache(2**20, COUNT, SIZE))
    expected = images(source)
    for file in files:
        os.unlink(file)
    assert torch.equal(images(source), expected)


def test_little_is_read_ahead_of_requests_without_end(files: list[str]) -> None:
    asked = itertools.count()
    reading = make(files).read(Request(torch.tensor([number % COUNT])) for number in asked)
    next(reading)
    assert next(asked) <= source.AHEAD_BATCHES + 1


def test_bytes_limit_what_is_read_ahead(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "AHEAD_BYTES", 1)
    asked = itertools.count()
    reading = make(files).read(Request(torch.tensor([number % COUNT])) for number in asked)
    next(reading)
    assert next(asked) == 2


def test_files_that_vanish_or_change_are_an_error_at_their_batch(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    stamps = scan_files(files, PREPROCESS, "headers", lambda line: None).stamps
    os.unlink(files[30])
    Image.new("RGB", (50, 50)).save(files[31])
    Path(files[32]).write_text("no image")
    reading = make(files, stamps=stamps).read(Request(torch.arange(k, k + 8)) for k in range(0, COUNT, 8))
    read: list[LoadedExamples] = []
    with pytest.raises(DataError) as caught:
        read.extend(reading)
    del read
    assert str(caught.value) == (
        f"2 of 8 images of a batch: {files[30]}: no such file, "
        f"{files[31]} has changed since the run began to use it"
    )
    with pytest.raises(DataError, match="32.png cannot be read as an image"):
        next(make(files).read([Request(torch.tensor([0, 32]))]))


def test_batches_before_a_bad_file_are_returned(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    os.unlink(files[30])
    reading = make(files).read(Request(torch.arange(k, k + 8)) for k in range(0, COUNT, 8))
    for _ in range(3):
        next(reading)
    with pytest.raises(DataError, match="30.png: no such file"):
        next(reading)
    assert not decoding_threads()


def test_threads_end_with_the_reading_and_when_it_is_abandoned(files: list[str]) -> None:
    for _ in make(files).read(requests()):
        assert decoding_threads()
        break
    assert not decoding_threads()
    images(make(files))
    assert not decoding_threads()


def test_closing_ends_threads_and_the_reading(files: list[str]) -> None:
    source = make(files)
    reading = source.read(requests())
    next(reading)
    source.close()
    assert not decoding_threads()
    assert list(reading) == []
    assert images(source).shape[0] == 9 * 16  # it can be read again


def test_a_source_is_copied_and_pickled_while_it_is_read(files: list[str]) -> None:
    source = make(files, cache=PixelCache(2**20, COUNT, SIZE))
    expected = images(source)
    reading = source.read(requests())
    next(reading)
    for other in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert torch.equal(images(other), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="posix only")
def test_a_child_process_reads_while_its_parent_does(files: list[str]) -> None:
    source = make(files)
    reading = source.read(requests())
    next(reading)
    child = os.fork()
    if not child:
        os._exit(0 if images(source).shape[0] == 9 * 16 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
