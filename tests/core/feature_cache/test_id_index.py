from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sidetune_core.feature_cache.id_index import IdIndex

LOWEST, HIGHEST = -(2**63), 2**63 - 1
KINDS = {
    "consecutive": torch.arange(3000),
    "34 bits": 2**34 + torch.arange(3000) * 5,
    "negative": -torch.arange(1, 3001),
    "far apart": torch.arange(3000) << 40,
    "random": torch.randint(LOWEST, HIGHEST, (3000,), generator=torch.Generator().manual_seed(0)).unique(),
    "extremes": torch.tensor([LOWEST, HIGHEST, 0, -1, 1]),
}


def filled(ids: Tensor) -> IdIndex:
    index = IdIndex()
    for first, some in enumerate(ids.split(7)):
        index.add(some, torch.arange(first * 7, first * 7 + len(some)))
    return index


@pytest.mark.parametrize("ids", KINDS.values(), ids=KINDS.keys())
def test_every_id_is_found_in_its_row(ids: Tensor) -> None:
    shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(filled(shuffled).find(shuffled), torch.arange(len(ids)))


@pytest.mark.parametrize("ids", KINDS.values(), ids=KINDS.keys())
def test_an_id_that_was_not_added_is_not_found(ids: Tensor) -> None:
    added, other = ids[::2], ids[1::2]
    assert (filled(added).find(other) == -1).all()


def test_memory_grows_with_the_number_of_rows_and_not_with_the_ids() -> None:
    index = filled(KINDS["far apart"])
    assert (index._ids.nbytes + index._rows.nbytes) / len(index) <= 64


def test_ids_of_early_rows_can_be_removed() -> None:
    ids = KINDS["34 bits"]
    index = filled(ids)
    index.remove_before(1000)
    assert (index.find(ids[:1000]) == -1).all()
    assert torch.equal(index.find(ids[1000:]), torch.arange(1000, 3000))
    assert len(index) == 2000
