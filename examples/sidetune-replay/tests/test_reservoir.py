"""What is kept of a stream of examples."""

from __future__ import annotations

import torch
from sidetune_replay.reservoir import Reservoir
from torch import Tensor

from sidetune_core.api import seeded


def columns(*numbers: int) -> dict[str, Tensor]:
    return {"id": torch.tensor(numbers), "target": torch.tensor(numbers) + 0.5}


def kept(reservoir: Reservoir) -> list[int]:
    return sorted(int(number) for one in reservoir.draw(10_000).values() for number in one["id"])


def test_all_is_kept_until_it_is_full() -> None:
    reservoir = Reservoir(5)
    reservoir.start("t0")
    reservoir.add("t0", columns(0, 1, 2))
    reservoir.add("t0", columns(3, 4))
    assert kept(reservoir) == [0, 1, 2, 3, 4]


def test_it_never_holds_more_than_its_size_and_knows_what_it_has_seen() -> None:
    reservoir = Reservoir(4)
    for task in ("t0", "t1", "t2"):
        reservoir.start(task)
        for first in range(0, 60, 6):
            reservoir.add(task, columns(*range(first, first + 6)))
            assert len(reservoir) == min(4, int(reservoir.seen))
    assert int(reservoir.seen) == 180


def test_every_example_is_kept_with_the_same_probability() -> None:
    size, count, trials = 6, 24, 1500
    times = torch.zeros(count)
    with seeded(0, "trials"):
        for _ in range(trials):
            reservoir = Reservoir(size)
            for task, first in (("t0", 0), ("t1", 12)):  # in batches of 8 and 4
                reservoir.start(task)
                reservoir.add(task, columns(*range(first, first + 8)))
                reservoir.add(task, columns(*range(first + 8, first + 12)))
            times[kept(reservoir)] += 1
    expected, deviation = trials * size / count, (trials * size / count * (1 - size / count)) ** 0.5
    assert times.sum() == trials * size
    assert (times - expected).abs().max() < 4 * deviation


def test_a_sample_has_no_example_twice_and_keeps_rows_together() -> None:
    reservoir = Reservoir(10)
    reservoir.start("t0")
    reservoir.start("t1")
    reservoir.add("t0", columns(*range(6)))
    reservoir.add("t1", columns(*range(6, 10)))
    drawn = reservoir.draw(7)
    numbers = [int(number) for one in drawn.values() for number in one["id"]]
    assert len(numbers) == len(set(numbers)) == 7
    for one in drawn.values():
        assert torch.equal(one["target"], one["id"] + 0.5)
    assert {int(number) < 6 for number in drawn["t0"]["id"]} == {True}


def test_tasks_may_have_targets_of_different_shapes() -> None:
    reservoir = Reservoir(10)
    reservoir.start("t0")
    reservoir.start("t1")
    reservoir.add("t0", {"target": torch.zeros(3, 2, 2)})
    reservoir.add("t1", {"target": torch.zeros(4, dtype=torch.int64)})
    assert {task: tuple(one["target"].shape) for task, one in reservoir.draw(7).items()} == {
        "t0": (3, 2, 2),
        "t1": (4,),
    }


def test_its_state_dict_fills_another_one_whatever_it_held() -> None:
    first, second = Reservoir(5), Reservoir(5)
    for reservoir in (first, second):
        reservoir.start("t0")
    first.add("t0", columns(*range(9)))
    second.add("t0", columns(100))
    second.load_state_dict(first.state_dict())
    assert kept(second) == kept(first)
    for reservoir in (first, second):
        with seeded(1, "later"):
            reservoir.add("t0", columns(*range(9, 30)))
    assert kept(second) == kept(first)
