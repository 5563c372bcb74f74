"""The number of threads: chosen, adapted, kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from sidetune_core.system import threads as module
from sidetune_core.system.processors import Reading
from sidetune_core.system.threads import Threads, use_threads

QUIET, BUSY = 2.0, 0.0


@pytest.fixture(autouse=True)
def own_number() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def readings(free: Sequence[float], count: int = 2) -> Iterator[Reading]:
    """One a second, between which other processes leave so many of the processors."""
    idle = 0.0
    yield Reading(at=0, processors=count, idle=0, total=0, own=0)
    for second, processors in enumerate(free, 1):
        idle += processors
        yield Reading(at=second, processors=count, idle=idle, total=count * second, own=0)


def history(threads: Threads, looks: int) -> list[int]:
    """The numbers after each look, a second apart."""
    numbers = []
    for _ in range(looks):
        threads._next_look = 0.0
        threads.look("t0", 0)
        numbers.append(threads.number)
    return numbers


def follow(number: int, free: Sequence[float], most: int = 2) -> list[int]:
    source = readings(free, most)
    return history(Threads(number, most, adapts=True, read=lambda: next(source)), len(free))


def test_the_number_falls_after_two_busy_looks_in_a_row() -> None:
    assert follow(2, [QUIET, BUSY, QUIET, BUSY, BUSY, BUSY]) == [2, 2, 2, 2, 1, 1]


def test_the_number_rises_after_four_quiet_looks_and_then_after_eight() -> None:
    numbers = follow(1, [*[QUIET] * 4, BUSY, BUSY, *[QUIET] * 8])
    assert numbers == [1, 1, 1, 2, 2, 1, *[1] * 7, 2]


def test_a_number_changes_rarely_however_often_the_load_does() -> None:
    hour = follow(2, [BUSY, BUSY, *[QUIET] * 4] * 600)
    assert sum(first != second for first, second in zip(hour, hour[1:], strict=False)) <= 2 * 10


def test_a_large_number_falls_by_a_fourth_at_least() -> None:
    assert follow(64, [62.0] * 4, most=64) == [64, 48, 48, 48]
    assert follow(64, [10.0] * 2, most=64) == [64, 10]


def test_nothing_is_adapted_where_the_system_does_not_tell() -> None:
    threads = Threads(2, 2, adapts=True, read=lambda: None)
    assert history(threads, 3) == [2, 2, 2]


def test_torch_computes_with_the_adapted_number() -> None:
    torch.set_num_threads(2)
    follow(2, [BUSY, BUSY])
    assert torch.get_num_threads() == 1


def test_a_repeated_run_changes_its_number_where_the_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "available", lambda: 2)
    with use_threads(kept=2, changes={("t0", 3): 1, ("t1", 0): 2}) as threads:
        steps = [("t0", step) for step in range(5)] + [("t1", step) for step in range(2)]
        assert [threads.look(*step) and threads.number for step in steps] == [0, 0, 0, 1, 0, 2, 0]


def test_between_two_looks_nothing_is_read() -> None:
    source = readings([QUIET])
    threads = Threads(2, 2, adapts=True, read=lambda: next(source))
    assert [threads.look("t0", 0) for _ in range(100)] == [False] * 100


def test_the_users_number_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(own))
    with use_threads(own + 2, kept=1) as threads:
        assert (torch.get_num_threads(), threads.adapts) == (own + 2, False)
    with use_threads(None, kept=own + 1) as threads:
        assert (torch.get_num_threads(), threads.adapts) == (own, False)
    assert torch.get_num_threads() == own


def test_the_number_of_the_run_so_far_is_kept_where_there_are_as_many_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "available", lambda: 3)
    source = readings([BUSY, BUSY])
    monkeypatch.setattr(module, "take_reading", lambda: next(source))
    monkeypatch.setattr(module, "SAMPLE", 0.0)
    with use_threads(kept=3, changes={}) as threads:
        assert (threads.number, threads.adapts) == (3, False)
    with use_threads(kept=3, processes=2) as threads:
        assert (threads.number, threads.adapts) == (3, False)
    with use_threads(kept=4) as threads:
        assert threads.number == 1


@pytest.mark.parametrize(
    ("free", "number", "words"),
    [
        ([QUIET], 2, "2 threads"),
        ([BUSY, None, QUIET], 2, "2 threads"),  # a process that was about to end
        ([BUSY, None, BUSY], 1, "1 thread of 2, alongside other processes"),
    ],
)
def test_a_run_begins_with_what_others_leave(
    free: list[float | None], number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "available", lambda: 2)
    monkeypatch.setattr(module, "SAMPLE", 0.0)
    torch.set_num_threads(2)
    source = readings([QUIET if one is None else one for one in free])
    monkeypatch.setattr(module, "take_reading", lambda: next(source, None))
    with use_threads() as threads:
        assert torch.get_num_threads() == threads.number == number
        assert str(threads) == words
