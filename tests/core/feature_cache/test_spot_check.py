from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidetune_core.feature_cache.row_table import RowTable
from sidetune_core.feature_cache.spot_check import SAMPLE, SpotCheck, agree

VALUES = torch.rand(40, 8, generator=torch.Generator().manual_seed(0))


def all_rows(table: RowTable) -> Tensor:
    return table.find(torch.arange(40))


def opened(folder: Path, values: Tensor = VALUES, lengths: Tensor | None = None) -> RowTable:
    """A table of two files of 20 rows; the ids of the first are 0 to 19."""
    for ids in torch.arange(40).split(20):
        table = RowTable(folder, lambda size: True, print)
        ragged = frozenset[int]() if lengths is None else frozenset({0})
        own = torch.ones_like(ids) if lengths is None else lengths[ids]
        table.append(ids, [values[ids]], own, ragged)
        table.save()
    return RowTable(folder, lambda size: True, print)


def test_a_table_is_checked_when_each_file_is_first_used_and_then_ever_more_rarely(tmp_path: Path) -> None:
    table = opened(tmp_path)
    check = SpotCheck(table)
    first, second = (table.find(ids) for ids in torch.arange(40).split(20))
    due = [check.choose(first) is not None for _ in range(18)]
    assert due == [number in (1, 4, 16) for number in range(1, 19)]
    assert check.choose(second) is not None  # lookup number 19
    assert check.choose(second) is None


def test_rows_that_are_in_no_file_are_not_checked(tmp_path: Path) -> None:
    table = opened(tmp_path)
    table.append(torch.tensor([99]), [VALUES[:1]], torch.tensor([1]), frozenset())
    check = SpotCheck(table)
    assert check.choose(torch.tensor([-1, -1])) is None
    assert check.choose(table.find(torch.tensor([99]))) is None
    assert check.choose(table.find(torch.tensor([99, 3, 1000]))).tolist() == [False, True, False]


def test_few_rows_of_a_large_batch_are_computed_again(tmp_path: Path) -> None:
    table = opened(tmp_path)
    chosen = SpotCheck(table).choose(table.find(torch.arange(40)))
    assert chosen is not None
    assert chosen.sum() == SAMPLE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_that_another_machine_has_rounded_agree(dtype: torch.dtype, tmp_path: Path) -> None:
    table = opened(tmp_path, VALUES.to(dtype))
    rounding = 1e-3 if dtype == torch.float32 else 1e-2
    noise = 1 + rounding * torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    assert agree(table, all_rows(table), [(VALUES * noise).to(dtype)], None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_other_examples_do_not_agree(dtype: torch.dtype, tmp_path: Path) -> None:
    table = opened(tmp_path, VALUES.to(dtype))
    assert not agree(table, all_rows(table), [VALUES.flip(0).to(dtype)], None)


def test_one_wrong_example_in_a_sample_does_not_agree(tmp_path: Path) -> None:
    table, values = opened(tmp_path), VALUES[:16].clone()
    values[5] = VALUES[30]
    assert not agree(table, all_rows(table)[:16], [values], None)


@pytest.mark.parametrize(
    "columns", [[], [VALUES, VALUES], [VALUES[:, :4]], [VALUES[..., None]], [VALUES.double()]]
)
def test_features_of_another_shape_do_not_agree(columns: list[Tensor], tmp_path: Path) -> None:
    table = opened(tmp_path)
    assert not agree(table, all_rows(table), columns, None)


def test_features_without_a_value_agree_where_they_are_at_the_same_places(tmp_path: Path) -> None:
    values = VALUES.clone()
    values[3, 2] = float("nan")
    table = opened(tmp_path, values)
    assert agree(table, all_rows(table), [values], None)
    assert not agree(table, all_rows(table), [VALUES], None)


def test_zeros_agree_with_zeros_only(tmp_path: Path) -> None:
    table = opened(tmp_path, torch.zeros(40, 8))
    assert agree(table, all_rows(table), [torch.zeros(40, 8)], None)
    assert not agree(table, all_rows(table), [VALUES], None)


def test_sequences_of_another_length_do_not_agree(tmp_path: Path) -> None:
    lengths = 1 + torch.arange(40) % 3
    values = VALUES.view(40, 4, 2) * (torch.arange(4) < lengths[:, None])[..., None]
    table = opened(tmp_path, values, lengths)
    assert agree(table, all_rows(table), [values], lengths)
    assert not agree(table, all_rows(table), [values], lengths + 1)
