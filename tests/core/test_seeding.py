"""Seeds derived from names, and blocks that restore the generators."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from sidetune_core.seeding import derive_seed, random_states, seeded, set_random_states
from sidetune_core.storage.nested_state import flatten, unflatten


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_a_derived_seed_never_changes() -> None:
    assert derive_seed(0, "start", "t0") == 2113519158132049062


def test_a_derived_seed_is_the_first_63_bits_of_a_hash() -> None:
    assert derive_seed(3, "a", 1) == int(hashlib.sha256(b"3/a/1").hexdigest()[:16], 16) >> 1


def test_a_derived_seed_fits_every_generator() -> None:
    for k in range(200):
        assert 0 <= derive_seed(k, "name") < 2**63
    torch.Generator().manual_seed(derive_seed(0))
    np.random.default_rng(derive_seed(0))


def test_different_seeds_and_names_give_different_seeds() -> None:
    seeds = {
        derive_seed(seed, *names)
        for seed in range(20)
        for names in ((), ("a",), ("b",), ("a", "b"), ("a", 0), ("a", 1))
    }
    assert len(seeds) == 120


def test_a_block_draws_the_same_numbers_whatever_ran_before() -> None:
    with seeded(1, "start", "t0"):
        first = draw()
    torch.rand(7), np.random.rand(7), random.random()
    with seeded(1, "start", "t0"):
        assert draw() == first


def test_a_block_of_another_name_draws_other_numbers() -> None:
    with seeded(1, "start", "t0"):
        first = draw()
    with seeded(1, "start", "t1"):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_block_does_not_affect_the_generators_outside() -> None:
    def reset() -> None:
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    with seeded(0):  # isolates other tests
        reset()
        expected = draw()
        reset()
        with seeded(1, "anything"):
            draw()
        assert draw() == expected


def fail() -> None:
    draw()
    raise ZeroDivisionError


def test_an_error_in_a_block_restores_the_generators_too() -> None:
    with seeded(0):
        expected = draw()
    with seeded(0):
        with pytest.raises(ZeroDivisionError), seeded(1):
            fail()
        assert draw() == expected


def test_blocks_nest() -> None:
    with seeded(1):
        expected = draw(), draw()
    with seeded(1):
        first = draw()
        with seeded(2):
            draw()
        assert (first, draw()) == expected


def test_states_of_generators_survive_json() -> None:
    plain, tensors = flatten(random_states())
    # NumPy and Python generate normal numbers in pairs and keep the second
    drawn = [(draw(), float(np.random.randn()), random.gauss()) for _ in range(3)]
    draw()
    set_random_states(unflatten(json.loads(json.dumps(plain)), tensors))
    assert [(draw(), float(np.random.randn()), random.gauss()) for _ in range(3)] == drawn
