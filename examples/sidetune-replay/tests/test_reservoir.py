"""The reservoir's sample of a stream of examples."""

from __future__ import annotations

import torch
from sidetune_replay.reservoir import Reservoir
from torch import Tensor

from sidetune_core.api import seeded


def columns(*ids: int) -> dict[str, Tensor]:
    return {"id": torch.tensor(ids), "target": torch.tensor(ids) + 0.5}


def stored_ids(reservoir: Reservoir) -> list[int]:
    sample = reservoir.read(torch.arange(reservoir.size))
    return sorted(int(id) for _, columns in sample.values() for id in columns["id"])


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


def test_a_sample_has_every_example_once_before_any_twice() -> None:
    reservoir = Reservoir(10)
    reservoir.add_task("t0")
    reservoir.add("t0", columns(*range(6)))
    drawn = reservoir.draw(15)
    for part in (drawn[:6], drawn[6:12]):
        assert sorted(part.tolist()) == list(range(6))
    assert len(set(drawn[12:].tolist())) == 3


def test_examples_are_read_by_task_with_their_positions() -> None:
    reservoir = Reservoir(10)
    reservoir.add_task("t0")
    reservoir.add_task("t1")
    reservoir.add("t0", columns(*range(6)))
    reservoir.add("t1", columns(*range(6, 10)))
    slots = torch.tensor([8, 2, 5, 8, 0])
    sample = reservoir.read(slots)
    ids = torch.empty_like(slots)
    for positions, read in sample.values():
        ids[positions] = read["id"]
        assert torch.equal(read["target"], read["id"] + 0.5)
    assert torch.equal(ids, slots)  # the first examples have slots in order
    assert sample["t1"][0].tolist() == [0, 3]


def test_tasks_may_have_targets_of_different_shapes() -> None:
    reservoir = Reservoir(10)
    reservoir.add_task("t0")
    reservoir.add_task("t1")
    reservoir.add("t0", {"target": torch.zeros(3, 2, 2)})
    reservoir.add("t1", {"target": torch.zeros(4, dtype=torch.int64)})
    sample = reservoir.read(torch.arange(7))
    assert {task: tuple(read["target"].shape) for task, (_, read) in sample.items()} == {
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
