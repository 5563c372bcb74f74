from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.feature_cache import row_table as module
from sidetune_core.feature_cache.row_table import RowTable

CPU = torch.device("cpu")
NONE: frozenset[int] = frozenset()


def made(folder: Path | None = None, limit: float = float("inf"), said: list[str] | None = None) -> RowTable:
    def reserve(size: int) -> bool:
        return size <= limit

    return RowTable(folder, reserve, [].append if said is None else said.append)


def column(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def put(rows: RowTable, values: Tensor, ids: Tensor, by: int) -> None:
    for some in ids.split(by):
        rows.append(some, [values[some]], torch.ones_like(some), NONE)


@pytest.fixture(params=["memory", "disk"])
def folder(request: Any, tmp_path: Path) -> Path | None:
    return tmp_path / "rows" if request.param == "disk" else None


def test_rows_of_many_blocks_come_back_in_the_order_asked_for(
    folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_BLOCK_ROWS", 7)
    monkeypatch.setattr(module, "MAX_SHARD_ROWS", 7)
    values, order = column(100, 3), torch.randperm(100)
    rows = made(folder)
    put(rows, values, order, by=3)
    for asked in (torch.arange(100), torch.tensor([5]), torch.tensor([99, 0, 99])):
        (found,) = rows.read(rows.find(asked), 0, CPU)
        assert torch.equal(found, values[asked])
    assert rows.bytes == values.nbytes


def test_what_is_not_there_is_not_found() -> None:
    rows = made()
    put(rows, column(4, 2), torch.tensor([3, 1]), by=2)
    assert rows.find(torch.tensor([1, 2, 3, 10**6])).tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize("ids", [[2**34, 3, 2**62], [-1, -5, 0]])
def test_ids_may_be_any_integers(ids: list[int], folder: Path | None) -> None:
    rows, values = made(folder), column(3, 2)
    rows.append(torch.tensor(ids), [values], torch.ones(3, dtype=torch.int64), NONE)
    rows.save()
    again = rows if folder is None else made(folder)
    (found,) = again.read(again.find(torch.tensor(ids[::-1])), 0, CPU)
    assert torch.equal(found, values.flip(0))


def test_rows_of_files_can_be_dropped_and_added_again_outside_the_folder(tmp_path: Path) -> None:
    values = column(20, 4)
    first = made(tmp_path)
    put(first, values, torch.arange(12), by=4)
    first.save()
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    second = made(tmp_path)
    put(second, values, torch.arange(12, 16), by=4)
    assert second.drop_stored() == 12 * 16
    put(second, -values, torch.arange(8), by=4)
    second.save()
    assert second.find(torch.tensor([0, 8, 12, 16])).tolist() == [16, -1, 12, -1]
    (found,) = second.read(second.find(torch.tensor([0, 12])), 0, CPU)
    assert torch.equal(found, torch.stack([-values[0], values[12]]))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert second.bytes == 12 * 16


def test_nothing_is_remembered_beyond_the_limit() -> None:
    rows = made(limit=0)
    put(rows, column(4, 2), torch.arange(4), by=2)
    assert rows.bytes == 0
    assert rows.find(torch.arange(4)).tolist() == [-1] * 4


def test_sequences_are_kept_without_their_padding(folder: Path | None) -> None:
    lengths = torch.tensor([3, 1, 5, 2])
    values = column(4, 5, 2) * (torch.arange(5) < lengths[:, None])[..., None]
    pooled = column(4, 2)
    rows = made(folder)
    for some in torch.arange(4).split(2):
        rows.append(some, [values[some], pooled[some]], lengths[some], frozenset({0}))
    rows.save()
    assert rows.bytes == (11 + 4) * 2 * 4
    found, also = rows.read(rows.find(torch.tensor([3, 2, 1, 0])), 6, CPU)
    assert torch.equal(found[:, :5], values.flip(0))
    assert torch.equal(found[:, 5], torch.zeros(4, 2))
    assert torch.equal(also, pooled.flip(0))
    if folder is not None:
        again, also = made(folder).read(torch.tensor([1, 2]), 5, CPU)
        assert torch.equal(again, values[[1, 2]])
        assert torch.equal(also, pooled[[1, 2]])


def test_the_number_format_is_kept_on_disk(tmp_path: Path) -> None:
    values = column(10, 4, dtype=torch.bfloat16)
    rows = made(tmp_path)
    put(rows, values, torch.arange(10), by=10)
    rows.save()
    (found,) = made(tmp_path).read(torch.arange(10), 0, CPU)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, values)


def test_each_save_writes_what_is_new_only(tmp_path: Path) -> None:
    values, rows = column(30, 4), made(tmp_path)
    sizes = []
    for ids in torch.arange(30).split(10):
        put(rows, values, ids, by=10)
        rows.save()
        rows.save()
        sizes.append(sorted(path.stat().st_size for path in tmp_path.iterdir()))
    assert [len(size) for size in sizes] == [1, 2, 3]
    assert len(set(sizes[-1])) == 1


def test_two_runs_that_wrote_the_same_rows_are_no_trouble(tmp_path: Path) -> None:
    values = column(20, 4)
    first, second = made(tmp_path), made(tmp_path)
    put(first, values, torch.arange(12), by=12)
    put(second, values, torch.arange(8, 20), by=12)
    first.save()
    second.save()
    third = made(tmp_path)
    (found,) = third.read(third.find(torch.arange(20)), 0, CPU)
    assert torch.equal(found, values)


def test_the_files_may_be_larger_than_what_a_process_may_hold(tmp_path: Path) -> None:
    """A child that may take 400 MiB for data beyond what PyTorch takes writes and reads rows of 800 MiB."""
    script = """
import resource, sys, torch
from pathlib import Path
from sidetune_core.feature_cache.row_table import RowTable

def data():  # of private memory, which files that are mapped do not count towards
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

rows, peak, before = RowTable(Path(sys.argv[1]), lambda size: True, print), 0, data()
for number in range(100):
    ids = torch.arange(number * 64, number * 64 + 64)
    values = torch.full((64, 8, 64, 128), float(number)).bfloat16()
    rows.append(ids, [values], torch.ones_like(ids), frozenset())
    del values
    peak = max(peak, data() - before)
ids = torch.arange(0, 6400, 64)
(found,) = rows.read(rows.find(ids), 0, torch.device("cpu"))
peak = max(peak, data() - before)
assert torch.equal(found[:, 0, 0, 0].float(), torch.arange(100.0)), found
print(rows.bytes >> 20, peak >> 20)
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    held, peak = map(int, out.split())
    assert held == 800
    assert peak < 400


def test_rows_that_another_process_has_written_are_found_after_a_reload(tmp_path: Path) -> None:
    values, ids = column(12, 3), torch.arange(12)
    first, second = made(tmp_path), made(tmp_path)
    put(first, values, ids[:4], by=2)
    put(second, values, ids[2:9], by=3)
    second.save()
    first.reload()
    assert (first.find(ids) >= 0).tolist() == [True] * 9 + [False] * 3
    (found,) = first.read(first.find(ids[:9]), 0, CPU)
    assert torch.equal(found, values[:9])
    put(first, values, ids[9:], by=3)
    second.reload()  # what `first` had before its reload is in a file
    assert (second.find(ids) >= 0).tolist() == [True] * 9 + [False] * 3
