"""The reservoir's sample of a stream of examples."""

from __future__ import annotations

import torch
from sidetune_replay.reservoir import Reservoir
from torch import Tensor

from sidetune_core.api import seeded


def columns(*ids: int) -> dict[str, Tensor]:
    return {"id": torch.tensor(ids), "target": torch.tensor(ids) + 0.5}


def stored_ids(reservoir: Reservoir) -> list[int]:
    return sorted(int(id) for columns in reservoir.draw(10_000).values() for id in columns["id"])


def test_every_example_is_stored_until_it_is_full() -> None:
    reservoir = Reservoir(5)
    reservoir.add_task("t0")
    reservoir.add("t0", columns(0, 1, 2))
    reservoir.add("t0", columns(3, 4))
    assert stored_ids(reservoir) == [0, 1, 2, 3, 4]


def test_it_never_holds_more_than_its_size_and_counts_what_it_has_seen() -> None:
    reservoir = Reservoir(4)
    for task in ("t0", "t1", "t2"):
        reservoir.add_task(task)
        for first in range(0, 60, 6):
            reservoir.add(task, columns(*range(first, first + 6)))
            assert len(reservoir) == min(4, int(reservoir.seen))
    assert int(reservoir.seen) == 180


def test_every_example_is_stored_with_the_same_probability() -> None:
    size, count, trials = 6, 24, 1500
    times = torch.zeros(count)
    with seeded(0, "trials"):
        for _ in range(trials):
            reservoir = Reservoir(size)
            for task, first in (("t0", 0), ("t1", 12)):  # in batches of 8 and 4
                reservoir.add_task(task)
                reservoir.add(task, columns(*range(first, first + 8)))
                reservoir.add(task, columns(*range(first + 8, first + 12)))
            times[stored_ids(reservoir)] += 1
    expected, deviation = trials * size / count, (trials * size / count * (1 - size / count)) ** 0.5
    assert times.sum() == trials * size
    assert (times - expected).abs().max() < 4 * deviation


def test_a_sample_has_no_example_twice_and_keeps_rows_together() -> None:
    reservoir = Reservoir(10)
    reservoir.add_task("t0")
    reservoir.add_task("t1")
    reservoir.add("t0", columns(*range(6)))
    reservoir.add("t1", columns(*range(6, 10)))
    drawn = reservoir.draw(7)
    ids = [int(id) for sample in drawn.values() for id in sample["id"]]
    assert len(ids) == len(set(ids)) == 7
    for sample in drawn.values():
        assert torch.equal(sample["target"], sample["id"] + 0.5)
    assert {int(id) < 6 for id in drawn["t0"]["id"]} == {True}


def test_tasks_may_have_targets_of_different_shapes() -> None:
    reservoir = Reservoir(10)
    reservoir.add_task("t0")
    reservoir.add_task("t1")
    reservoir.add("t0", {"target": torch.zeros(3, 2, 2)})
    reservoir.add("t1", {"target": torch.zeros(4, dtype=torch.int64)})
    assert {task: tuple(sample["target"].shape) for task, sample in reservoir.draw(7).items()} == {
        "t0": (3, 2, 2),
        "t1": (4,),
    }


def test_its_state_dict_fills_another_reservoir_whatever_it_held() -> None:
    first, second = Reservoir(5), Reservoir(5)
    for reservoir in (first, second):
        reservoir.add_task("t0")
    first.add("t0", columns(*range(9)))
    second.add("t0", columns(100))
    second.load_state_dict(first.state_dict())
    assert stored_ids(second) == stored_ids(first)
    for reservoir in (first, second):
        with seeded(1, "later"):
            reservoir.add("t0", columns(*range(9, 30)))
    assert stored_ids(second) == stored_ids(first)
