"""Which rooms a run draws, and that those kept on disk are those that would be rendered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sidetune_plugins.envs.rooms import cache as cache
from torch import Tensor

NAMES = ["rgb", "normal", "depth_zbuffer", "class_room"]


def images(folder: Path | None, numbers: list[int], said: list[str] | None = None) -> dict[str, Tensor]:
    lines: list[str] = [] if said is None else said
    return cache.RoomCache(0, "train", 32, folder).images(numbers, NAMES, lines.append)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(values, other[name]) for name, values in one.items()
    )


def test_more_rooms_contain_fewer_and_seeds_draw_others_with_every_kind_alike() -> None:
    few, many, all_of_them = (cache.sample_indices(count, 1024, seed=0) for count in (25, 100, 1024))
    assert many[:25] == few
    assert sorted(all_of_them) == list(range(1024))
    assert not set(few) & set(cache.sample_indices(25, 1024, seed=1))
    assert sorted(number % 8 for number in few[:24]) == sorted(list(range(8)) * 3)
    assert (
        cache.sample_indices(1500, 1024, seed=0)
        == cache.sample_indices(1500, 1024, seed=1)
        == list(range(1500))
    )


def test_what_is_kept_is_what_was_rendered_whatever_was_rendered_with_it(tmp_path: Path) -> None:
    numbers = [17, 3, 4, 16]
    rendered = images(None, numbers)
    assert same(rendered, images(tmp_path, numbers))
    assert same(rendered, images(tmp_path, numbers))
    assert same(images(None, [3]), {name: values[1:2] for name, values in rendered.items()})
    assert sorted(path.name for path in tmp_path.rglob("*.rooms")) == ["0.rooms", "2.rooms"]


def test_kept_rooms_are_read_and_damaged_ones_rendered_again(tmp_path: Path) -> None:
    rendered = images(tmp_path, [0, 8])
    first, second = sorted(tmp_path.rglob("*.rooms"))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert torch.equal(images(tmp_path, [0])["rgb"], rendered["rgb"][1:])
    for damaged in (b"", whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        first.write_bytes(damaged)
        assert same(images(tmp_path, [0, 8]), rendered)
        assert first.read_bytes() == whole


def test_two_at_once_leave_whole_blocks(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: images(tmp_path, [0, 9]), range(2))
    assert same(one, other)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.rooms", "1.rooms"]
    assert same(images(tmp_path, [0, 9]), one)


def test_a_folder_that_cannot_be_written_is_told_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    said: list[str] = []
    monkeypatch.setattr(cache, "BATCH_BLOCKS", 1)
    assert same(images(tmp_path / "file", [0, 8], said), images(None, [0, 8]))
    assert len(said) == 1
    assert "not cached" in said[0]


def test_a_long_rendering_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BATCH_BLOCKS", 1)
    monkeypatch.setattr(cache, "PROGRESS_INTERVAL", 0.0)
    said: list[str] = []
    images(None, [0, 8], said)
    assert said == ["rendering rooms (train): 8 of 16", "rendering rooms (train): 16 of 16"]


def test_the_generator_is_known_by_its_code() -> None:
    assert cache.source_digest() == cache.source_digest()
    assert len(cache.source_digest()) == 16
