"""The cache of decoded images keeps what fits, and answers with it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sidetune_plugins.envs.images.pixel_cache import PixelCache

from sidetune_core.api import DataError

SIZE = 4
BYTES = 3 * SIZE * SIZE
IMAGES = torch.randint(
    0, 256, (20, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_images_come_back_by_id() -> None:
    cache = PixelCache(20 * BYTES, 20, SIZE)
    ids = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    cache.add(ids, IMAGES[ids])
    assert cache.has(torch.arange(20)).all()
    assert torch.equal(cache.get(torch.tensor([3, 3, 19, 0])), IMAGES[[3, 3, 19, 0]])


def test_it_keeps_the_first_images_that_fit() -> None:
    cache = PixelCache(3 * BYTES + 1, 20, SIZE)
    cache.add(torch.tensor([7, 2, 7]), IMAGES[[7, 2, 7]])
    cache.add(torch.tensor([5, 9]), IMAGES[[5, 9]])
    assert cache.has(torch.arange(20)).nonzero()[:, 0].tolist() == [2, 5, 7]
    assert torch.equal(cache.get(torch.tensor([5, 7])), IMAGES[[5, 7]])


def test_threads_may_fill_it_at_once() -> None:
    cache = PixelCache(20 * BYTES, 20, SIZE)
    with ThreadPoolExecutor(4) as pool:
        for id in [*range(20), *range(20)]:
            pool.submit(cache.add, torch.tensor([id]), IMAGES[id : id + 1])
    assert cache.filled == 20
    assert torch.equal(cache.get(torch.arange(20)), IMAGES)


def test_a_copy_shares_its_images_and_a_pickle_has_none() -> None:
    cache = PixelCache(20 * BYTES, 20, SIZE)
    cache.add(torch.tensor([1]), IMAGES[1:2])
    assert copy.deepcopy(cache) is cache
    loaded = pickle.loads(pickle.dumps(cache))
    assert (loaded.room, loaded.filled) == (20, 0)


def test_memory_that_cannot_be_reserved_is_an_error_that_names_the_option() -> None:
    with pytest.raises(DataError, match=r"cannot reserve .* set a lower --env\.memory"):
        PixelCache(2**62, 2**40 // BYTES * 2**10, 2**10)
