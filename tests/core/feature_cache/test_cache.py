"""The feature store: the same numbers, computed once."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, Inputs
from sidetune_core.feature_cache import table
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.storage.weights import read_tensors, write_tensors
from sidetune_core.testing import sample

COUNT = 1000
X = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0))
ROW = 8 * 4
"""Bytes of an encoding."""


@pytest.fixture(autouse=True)
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of these tests are smaller than those of runs."""
    if "rounds" not in request.node.name:
        monkeypatch.setattr(table, "ROUNDED_ALIKE", 1)


class Counting(Base):
    """(6,) to (8,) with one tap; counts its calls and the rows that it was given."""

    shape = (8,)
    tap_shapes = ((5,),)

    def __init__(self, seed: int = 0, power: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 8)
        self.power = power
        self.rows: list[int] = []
        self.eval().requires_grad_(False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        self.rows.append(len(inputs["x"]))
        tap = self.first(inputs["x"]).relu()
        return Features(self.second(tap) ** self.power, (tap,))


class ThreeTaps(Counting):
    """With taps (5,), (4,) and (3,)."""

    tap_shapes = ((5,), (4,), (3,))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        encoding, (tap,) = super().forward(inputs)
        return Features(encoding, (tap, tap[:, :4] + 1, tap[:, 2:] - 1))


class Told(list[str]):
    """What the store has said."""

    def __call__(self, message: str) -> None:
        self.append(message)


def batch(ids: list[int] | Tensor) -> Inputs:
    ids = torch.as_tensor(ids)
    return Inputs({"x": X[ids]}, ids)


def attached(base: Base, **options: Any) -> FeatureCache:
    store = FeatureCache(**{"limit": 2**30, "taps": (), "info": Told(), **options})
    store.attach(base, "fp32")
    return store


def passes() -> list[Inputs]:
    """Two passes over the examples, each in an order of its own; the batch in the middle has examples of
    both, some of them twice.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(COUNT, generator=generator) for _ in range(2)])
    return [batch(ids) for ids in order.split(96) if len(ids) == 96]


@pytest.mark.parametrize("taps", [None, ()])
def test_with_and_without_the_store_the_outputs_are_the_same_bit_for_bit(
    taps: tuple[int, ...] | None,
) -> None:
    plain, stored = Counting(), Counting()
    attached(stored, taps=taps)
    for inputs in [
        batch(ids) for _ in range(2) for ids in torch.arange(960).split(96)
    ]:  # a product rounds as its batch is composed
        expected, found = plain(inputs), stored(inputs)
        assert torch.equal(found.encoding, expected.encoding)
        assert all(torch.equal(one, other) for one, other in zip(found.taps, expected.taps, strict=False))


def test_over_shuffled_passes_the_outputs_are_the_same() -> None:
    plain, stored = Counting(), Counting()
    attached(stored, taps=None)
    for inputs in passes():
        torch.testing.assert_close(stored(inputs), plain(inputs))


def test_an_example_is_computed_once_however_often_and_in_whatever_order_it_comes() -> None:
    base = Counting()
    attached(base)
    for seed in range(3):
        for ids in torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed)).split(30 + seed):
            base(batch(ids))
    assert sum(base.rows) == COUNT


def test_a_batch_of_known_examples_computes_nothing() -> None:
    base = Counting()
    attached(base)
    base(batch([3, 1, 2]))
    base(batch([2, 3]))
    assert base.rows == [3]


def test_the_whole_batch_is_computed_where_some_examples_are_unknown() -> None:
    base = Counting()
    attached(base)
    base(batch([0, 1, 2]))
    base(batch([5, 1, 4, 0]))
    assert base.rows == [3, 4]


def test_in_a_full_store_the_unknown_examples_are_computed_and_a_few_beside_them() -> None:
    base = Counting()
    attached(base, limit=ROW * 256)
    base(batch(torch.arange(256)))
    base(batch([1000 - 1]))
    base.rows.clear()
    for unknown in (1, 20, 256):
        base(batch(torch.arange(256) + unknown))
    assert base.rows == [16, 20, 256]


class Even(Counting):
    """(6,) to (16,): widths for which a product rounds alike wherever in a batch of five or more an example
    is.
    """

    shape = (16,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16)
        self.eval().requires_grad_(False)


@pytest.mark.parametrize("room", [1000, 256])
def test_what_is_known_already_changes_no_bit_of_an_output(room: int) -> None:
    base = Even()
    plain = copy.deepcopy(base)
    attached(base, limit=16 * 4 * room)
    base(batch(torch.arange(256)))
    base(batch(torch.arange(500, 756)))
    for first in (
        237,
        236,
        490,
        100,
    ):  # in the first of these one example is unknown, and alone it would be rounded otherwise
        ids = torch.arange(first, first + 20)
        assert torch.equal(base(batch(ids)).encoding, plain(batch(ids)).encoding)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_example_rounds_alike_in_a_batch_of_few(count: int) -> None:
    base = Even()
    plain = copy.deepcopy(base)
    attached(base)
    few, many = base(batch(torch.arange(count))), plain(batch(torch.arange(20)))
    assert torch.equal(few.encoding, many.encoding[:count])


@pytest.mark.parametrize("taps", [None, ()])
def test_a_batch_of_known_and_unknown_examples_keeps_its_order(taps: tuple[int, ...] | None) -> None:
    plain, base = Counting(), Counting()
    attached(base, taps=taps)
    base(batch([10, 11, 12]))
    mixed = batch([40, 11, 3, 10, 700, 12])
    torch.testing.assert_close(base(mixed).encoding, plain(mixed).encoding)
    if taps is None:
        torch.testing.assert_close(base(mixed).taps, plain(mixed).taps)


def test_an_example_that_is_twice_in_a_batch_is_remembered_once() -> None:
    plain, base = Counting(), Counting()
    info = Told()
    attached(base, limit=256 * ROW, info=info)
    for _ in range(200):
        inputs = batch([7, 7, 3, 7])
        torch.testing.assert_close(base(inputs).encoding, plain(inputs).encoding)
    for k in range(250):  # 252 examples in all: they fit if none is stored twice
        base(batch([k + 10, k + 10]))
    assert info == []


def test_ids_need_not_be_small_or_in_order() -> None:
    plain, base = Counting(), Counting()
    attached(base)
    ids = torch.tensor([2**34 + 5, 5, -7])
    inputs = Inputs({"x": X[:3]}, ids)
    assert torch.equal(base(inputs).encoding, plain(inputs).encoding)
    again = Inputs({"x": X[[2, 0, 1]]}, ids[[2, 0, 1]])
    torch.testing.assert_close(base(again).encoding, plain(again).encoding)
    assert base.rows == [3]


def test_inputs_without_ids_are_computed_at_every_visit() -> None:
    base = Counting()
    attached(base)
    for _ in range(2):
        base(Inputs({"x": X[:4]}))
        base({"x": X[:4]})
    assert base.rows == [4] * 4


def test_what_is_served_needs_no_gradient() -> None:
    base = Counting()
    attached(base)
    assert not any(base(batch([0, 1])).encoding.requires_grad for _ in range(2))


# Tasks


def of_task(task: str | None, ids: list[int], first: int = 0) -> Inputs:
    """A batch of a task in which id k is example `first` + k."""
    return Inputs({"x": X[torch.tensor(ids) + first]}, torch.tensor(ids), task=task)


def visits() -> list[Inputs]:
    """Of two tasks, and of none, which have the same ids and other examples."""
    firsts = (("t0", 0), ("t1", 500), ("t0", 0), (None, 250), ("t1", 500))
    return [of_task(task, [1, 2, 3], first) for task, first in firsts]


def test_an_id_of_two_tasks_is_two_examples() -> None:
    plain, base = Counting(), Counting()
    attached(base)
    for inputs in visits():
        torch.testing.assert_close(base(inputs).encoding, plain(inputs).encoding)
    assert base.rows == [3, 3, 3]


def test_an_id_of_two_tasks_is_two_examples_on_disk(tmp_path: Path) -> None:
    plain, warnings = Counting(), Told()
    for _ in range(2):
        base = Counting()
        store = on_disk(tmp_path, base, warning=warnings)
        for inputs in visits():
            torch.testing.assert_close(base(inputs).encoding, plain(inputs).encoding)
        store.save()
    assert len(list(tmp_path.iterdir())) == 3
    assert warnings == []


def test_where_tasks_share_ids_an_example_is_computed_once() -> None:
    base = Counting()
    store = attached(base, shared_ids=True)
    for task in ("t0", "t1", None):
        base(of_task(task, [1, 2, 3]))
    assert base.rows == [3]
    assert store.used == 3 * ROW


def test_examples_without_a_task_have_one_namespace() -> None:
    base = Counting()
    attached(base)
    for _ in range(2):
        base(of_task(None, [1, 2, 3]))
    assert base.rows == [3]


# Taps


def test_taps_are_kept_only_if_asked() -> None:
    for taps in (None, ()):
        base = Counting()
        attached(base, taps=taps)
        taken = [len(base(batch([0, 1])).taps) for _ in range(2)]
        assert taken == [int(taps is None)] * 2


def test_taps_count_towards_the_limit() -> None:
    base, other = Counting(), Counting()
    with_taps, without = attached(base, taps=None), attached(other)
    base(batch([0]))
    other(batch([0]))
    assert with_taps.used / without.used == (8 + 5) / 8


def test_a_tap_that_is_not_cached_is_empty_at_its_position() -> None:
    base, plain = ThreeTaps(), ThreeTaps()
    store = attached(base, taps=(1,))
    for ids in ([0, 1, 2], [0, 1, 2], [2, 7, 0]):  # computed, read, and some of each
        taps, expected = base(batch(ids)).taps, plain(batch(ids)).taps
        assert [tuple(tap.shape) for tap in taps] == [(3, 0), (3, 4), (3, 0)]
        torch.testing.assert_close(taps[1], expected[1])
    assert store.used == 4 * (8 + 4) * 4


def test_in_a_ring_too_only_the_chosen_taps_are_cached() -> None:
    base = ThreeTaps()
    store = attached(base, taps=(0, 2))
    frames = attrs.evolve(batch([5, 6]), window=10)
    computed, read = base(frames), base(frames)
    assert [tuple(tap.shape) for tap in read.taps] == [(2, 5), (2, 0), (2, 3)]
    assert all(map(torch.equal, computed.taps, read.taps))
    assert store.used == 10 * (8 + 5 + 3) * 4


# The limit


def test_beyond_the_limit_outputs_stay_correct_and_one_message_is_said() -> None:
    plain, base = Counting(), Counting()
    info = Told()
    store = attached(base, limit=600 * ROW, info=info)
    for inputs in passes():
        torch.testing.assert_close(base(inputs).encoding, plain(inputs).encoding)
    assert store.used <= store.limit
    assert len(info) == 1
    assert "the feature cache is full" in info[0]
    assert "--cache.limit" in info[0]


def test_what_was_stored_before_the_limit_stays_in_use() -> None:
    base = Counting()
    attached(base, limit=256 * ROW)
    for ids in torch.arange(500).split(100):
        base(batch(ids))
    base.rows.clear()
    base(batch(torch.arange(100)))
    assert base.rows == []


def test_two_bases_share_one_limit_and_one_message() -> None:
    info = Told()
    learner = nn.ModuleList([Counting(0), Counting(1)])
    FeatureCache(256 * ROW, (), info).attach(learner, "fp32")
    for base in learner:
        for ids in torch.arange(400).split(100):
            base(batch(ids))
    assert len(info) == 1


def test_a_store_too_small_for_anything_only_computes() -> None:
    plain, base = Counting(), Counting()
    attached(base, limit=1)
    for inputs in passes()[:3] * 2:
        assert torch.equal(base(inputs).encoding, plain(inputs).encoding)
    assert base.rows == plain.rows


# Which bases are served, and by which table


@pytest.mark.parametrize("thaw", ["train", "requires_grad_"])
def test_a_base_that_may_change_is_never_served(thaw: str) -> None:
    base = Counting()
    getattr(base, thaw)(True)
    attached(base)
    for _ in range(2):
        base(batch([0, 1]))
    assert base.rows == [2, 2]


def test_a_base_of_which_one_parameter_may_move_is_never_served() -> None:
    base = Counting()
    base.second.bias.requires_grad_(True)
    attached(base)
    assert base.cache is None


def test_a_detached_base_computes_for_itself() -> None:
    base = Counting()
    store = attached(base)
    base(batch([0, 1]))
    store.detach(base)
    base(batch([0, 1]))
    assert base.rows == [2, 2]


def test_a_base_attached_again_with_the_same_weights_is_served_from_what_is_known() -> None:
    base, twin = Counting(), Counting()
    store = attached(base)
    base(batch([0, 1]))
    store.attach(twin, "fp32")
    twin(batch([1, 0]))
    assert twin.rows == []


def flip_a_bit(base: Counting) -> None:
    base.first.weight.view(torch.int32)[0, 0] ^= 1


def rename(base: Counting) -> None:
    base.power = 3


def rescale(base: Counting) -> None:
    base.register_buffer("scale", torch.ones(1), persistent=False)


@attrs.frozen
class Config:
    """Options that a base may keep."""

    pool: str = "mean"


def keep_config(base: Counting) -> None:
    base.config = Config("max")  # type: ignore[assignment]


@pytest.mark.parametrize("change", [flip_a_bit, rename, rescale, keep_config])
def test_a_base_with_other_weights_or_options_has_a_table_of_its_own(
    change: Callable[[Counting], None],
) -> None:
    base, other = Counting(), Counting()
    store = attached(base)
    base(batch([0, 1]))
    change(other)
    expected = other(batch([0, 1])).encoding
    store.attach(other, "fp32")
    assert torch.equal(other(batch([0, 1])).encoding, expected)
    assert len(other.rows) == 2


class Squared(Counting):
    """Another class with the same weights."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(super().forward(inputs).encoding ** 2)


def test_a_base_of_another_class_has_a_table_of_its_own() -> None:
    base, other = Counting(), Squared()
    store = attached(base)
    base(batch([0, 1]))
    store.attach(other, "fp32")
    assert torch.equal(other(batch([0, 1])).encoding, Counting()(batch([0, 1])).encoding ** 2)


def test_another_arithmetic_has_a_table_of_its_own() -> None:
    base = Counting()
    store = attached(base)
    base(batch([0, 1]))
    store.attach(base, "bf16")
    base(batch([0, 1]))
    assert base.rows == [2, 2]


def test_the_arithmetic_of_what_is_stored_is_kept() -> None:
    base = Counting()
    attached(base)
    with torch.autocast("cpu", torch.bfloat16):
        fresh = base(batch([0, 1])).encoding
        known = base(batch([0, 1])).encoding
        mixed = base(batch([0, 2])).encoding
    assert fresh.dtype == known.dtype == mixed.dtype == torch.bfloat16
    assert torch.equal(fresh, known)


# On disk


def on_disk(folder: Path, base: Base, **options: Any) -> FeatureCache:
    return attached(base, **{"folder": folder, "data": "some data", **options})


def filled(folder: Path, **options: Any) -> FeatureCache:
    base = Counting()
    store = on_disk(folder, base, **options)
    for ids in torch.arange(300).split(100):
        base(batch(ids))
    store.save()
    return store


@pytest.mark.parametrize("taps", [None, ()])
def test_a_second_store_reads_what_the_first_has_saved(taps: tuple[int, ...] | None, tmp_path: Path) -> None:
    filled(tmp_path, taps=taps)
    plain, base = Counting(), Counting()
    on_disk(tmp_path, base, taps=taps)
    found = base(batch([299, 0, 150]))
    assert base.rows == [3]  # to check the file
    torch.testing.assert_close(found.encoding, plain(batch([299, 0, 150])).encoding)
    assert len(found.taps) == int(taps is None)


def test_stores_of_other_taps_read_none_of_the_rows_and_all_taps_by_their_indices_are_all(
    tmp_path: Path,
) -> None:
    computed = []
    for taps in [(1,), (1,), (0, 1), (), None, (2, 0, 1), (0, 1, 2, 9)]:
        base = ThreeTaps()
        store = on_disk(tmp_path, base, taps=taps)
        base(batch(torch.arange(40)))
        computed.append(sum(base.rows))
        store.save()
    assert computed == [40, 8, 40, 40, 40, 8, 8]  # 8 are computed to check the file
    assert len(list(tmp_path.iterdir())) == 4


def test_a_store_that_was_read_grows_and_is_saved_again(tmp_path: Path) -> None:
    filled(tmp_path)
    base = Counting()
    store = on_disk(tmp_path, base)
    base(batch(torch.arange(250, 700)))
    store.save()
    third = Counting()
    on_disk(tmp_path, third)
    torch.testing.assert_close(
        third(batch([0, 699, 280])).encoding, Counting()(batch([0, 699, 280])).encoding
    )
    assert third.rows == [3]  # to check the files


def test_examples_that_were_twice_in_a_batch_are_saved_once(tmp_path: Path) -> None:
    base = Counting()
    store = on_disk(tmp_path, base)
    base(batch([4, 9, 4, 4]))
    base(batch([9, 2, 2]))
    store.save()
    (path,) = tmp_path.glob("*/*")
    assert sorted(read_tensors(path)["ids"].tolist()) == [2, 4, 9]


def test_nothing_new_is_not_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (path,) = tmp_path.glob("*/*")
    written = path.stat().st_mtime_ns
    store.save()
    assert path.stat().st_mtime_ns == written


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_content(path: Path) -> None:
    write_tensors(path, {"weight": torch.ones(3)})


@pytest.mark.parametrize("damage", [cut, empty, other_content])
def test_a_damaged_file_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    damage(path)
    filled(tmp_path)
    assert path.read_bytes() == whole


def test_other_data_does_not_share_a_file(tmp_path: Path) -> None:
    filled(tmp_path)
    base = Counting()
    on_disk(tmp_path, base, data="other data")
    base(batch([0, 1]))
    assert base.rows == [2]


CODE = """
from sidetune_core.api import Base, Features

class Edited(Base):
    shape = (6,)

    def forward(self, inputs):
        return Features(inputs["x"] * FACTOR)
"""


def test_a_base_whose_code_was_edited_does_not_get_what_the_old_code_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor in (2, 3):
        file = tmp_path / "edited_base.py"
        file.write_text(CODE.replace("FACTOR", str(factor)))
        spec = importlib.util.spec_from_file_location("edited_base", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "edited_base", module)
        spec.loader.exec_module(module)
        base = module.Edited().eval()
        store = on_disk(tmp_path / "store", base)
        assert torch.equal(base(batch([0, 1])).encoding, X[:2] * factor)
        store.save()
    assert len(list((tmp_path / "store").iterdir())) == 2


# Files that do not hold what the env gives


def other_example(ids: Tensor) -> Inputs:
    """The same ids as `batch`, of an env that gives other data and the same fingerprint."""
    return Inputs({"x": X[COUNT - 1 - ids]}, ids)


def test_files_of_other_data_under_the_same_fingerprint_are_not_served(tmp_path: Path) -> None:
    filled(tmp_path)
    base, warnings = Counting(), Told()
    on_disk(tmp_path, base, warning=warnings)
    for ids in torch.arange(400).split(50):
        inputs = other_example(ids)
        torch.testing.assert_close(base(inputs).encoding, Counting()(inputs).encoding)
    assert len(warnings) == 1


def test_the_warning_names_the_folder_and_the_fingerprint(tmp_path: Path) -> None:
    filled(tmp_path)
    (folder,) = tmp_path.iterdir()
    base, warnings = Counting(), Told()
    on_disk(tmp_path, base, warning=warnings)
    base(other_example(torch.arange(50)))
    assert f"the feature cache in {folder} is ignored" in warnings[0]
    assert "fingerprint()" in warnings[0]


def test_files_that_are_not_served_are_left_as_they_are(tmp_path: Path) -> None:
    filled(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    base = Counting()
    store = on_disk(tmp_path, base)
    base(other_example(torch.arange(50)))
    store.save()
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


def test_what_takes_their_place_is_cached_in_memory_and_counts_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    base = Counting()
    store = on_disk(tmp_path, base)
    for _ in range(2):
        base(other_example(torch.arange(50)))
    assert base.rows == [8, 50]
    assert store.used == 50 * ROW


def test_files_of_the_same_data_are_served_without_a_warning_and_seldom_computed(tmp_path: Path) -> None:
    filled(tmp_path)
    base, warnings = Counting(), Told()
    on_disk(tmp_path, base, warning=warnings)
    for _ in range(20):
        base(batch(torch.arange(100)))
    assert base.rows == [8] * 3  # in lookups number 1, 4 and 16
    assert warnings == []


def test_the_comparison_draws_no_random_numbers(tmp_path: Path) -> None:
    class Random(Counting):
        def forward(self, inputs: Mapping[str, Tensor]) -> Features:
            torch.rand(1)
            return super().forward(inputs)

    for _ in range(2):
        base = Random()
        store = on_disk(tmp_path, base)
        before = torch.get_rng_state()
        base(batch([0, 1, 2]))
        store.save()
    assert len(base.rows) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_is_not_known_stays_off_the_disk(tmp_path: Path) -> None:
    filled(tmp_path, data="")
    assert list(tmp_path.iterdir()) == []


def test_a_file_beyond_the_limit_is_neither_read_nor_overwritten(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    info, base = Told(), Counting()
    store = on_disk(tmp_path, base, limit=280 * ROW, info=info)
    base(batch([0, 1]))
    store.save()
    assert path.read_bytes() == whole
    assert len(info) == 1


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    info, base = Told(), Counting()
    store = on_disk(tmp_path / "file", base, info=info)
    base(batch([0, 1]))
    store.save()
    base(batch([2]))
    store.save()
    assert len(info) == 1
    assert "cannot write the feature cache" in info[0]


def test_a_base_that_is_no_longer_frozen_is_no_longer_served() -> None:
    store = FeatureCache(limit=2**20, taps=(), info=lambda _: None)
    base = sample.TinyBase((4,)).eval().requires_grad_(False)
    store.attach(base, "fp32")
    assert base.cache is not None
    base.requires_grad_(True)
    store.attach(base, "fp32")
    assert base.cache is None


class Encoder(Base):
    """Text of up to 6 words to (6, 4) and one tap, zero beyond the end of each example."""

    shape = (6, 4)
    tap_shapes = ((6, 2), (3,))

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.rows: list[int] = []
        self.eval().requires_grad_(False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        self.rows.append(len(inputs["words"]))
        real = (inputs["words"] > 0)[..., None]
        encoding = self.words(inputs["words"]) * real
        return Features(encoding, (encoding[..., :2], encoding.sum(1)[:, :3]))


def sentences(ids: list[int]) -> Inputs:
    """Example k has 1 + k % 6 words; a batch is as wide as its longest."""
    lengths = torch.tensor([1 + one % 6 for one in ids])
    words = torch.arange(1, 1 + int(lengths.max())).expand(len(ids), -1) * (
        torch.arange(int(lengths.max())) < lengths[:, None]
    )
    return Inputs({"words": words}, torch.tensor(ids), lengths)


def test_sequences_come_back_as_wide_as_their_batch_whatever_it_was_when_they_were_computed() -> None:
    plain, base = Encoder(), Encoder()
    base.load_state_dict(plain.state_dict())
    store = attached(base, taps=None)
    for ids in ([0, 5, 2], [1, 3], [0, 1, 2], [2, 3, 4], [5, 3]):
        known, fresh = base(sentences(ids)), plain(sentences(ids))
        torch.testing.assert_close(
            [known.encoding, *known.taps], [fresh.encoding, *fresh.taps], rtol=0, atol=0
        )
    assert base.rows == [3, 2, 3]
    assert store.used == 4 * ((1 + 2 + 3 + 4 + 5 + 6) * (4 + 2) + 6 * 3)


def test_images_are_served_in_the_memory_format_of_the_inputs(tmp_path: Path) -> None:
    class Picture(Base):
        shape = (4, 3, 3)

        def forward(self, inputs: Mapping[str, Tensor]) -> Features:
            return Features(inputs["image"].repeat(1, 2, 1, 1))

    images = torch.randn(6, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    for found in ("memory", "disk"):
        base = Picture().eval()
        store = on_disk(tmp_path, base)
        for _ in range(2):
            encoding = base(Inputs({"image": images}, torch.arange(6))).encoding
            assert encoding.is_contiguous(memory_format=torch.channels_last), found
        store.save()


def test_a_partly_cached_batch_has_the_memory_format_of_a_fresh_one() -> None:
    """Convolutions of the side round by the memory format, so a resumed run would differ in its last bits."""

    class Picture(Base):
        shape = (4, 3, 3)

        def forward(self, inputs: Mapping[str, Tensor]) -> Features:
            return Features(inputs["image"].repeat(1, 2, 1, 1))

    base = Picture().eval()
    attached(base)
    images = torch.randn(6, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    base(Inputs({"image": images[:2]}, torch.arange(2)))
    encoding = base(Inputs({"image": images}, torch.arange(6))).encoding
    assert encoding.is_contiguous(memory_format=torch.channels_last)


def test_in_bf16_outputs_that_come_in_fp32_are_served_in_bf16_from_the_first_time_on() -> None:
    base = Counting()
    FeatureCache(2**20, (), Told()).attach(base, "bf16")
    fresh, known = (base(batch([0, 1])).encoding for _ in range(2))
    assert fresh.dtype == known.dtype == torch.bfloat16
    assert torch.equal(fresh, known)


def test_the_outputs_of_a_base_that_the_learner_has_no_more_make_room() -> None:
    learner = nn.ModuleList([Counting(0), Counting(1)])
    store = FeatureCache(400 * ROW, (), Told())
    store.attach(learner, "fp32")
    for base in learner:
        base(batch(torch.arange(200)))
    assert store.used == 400 * ROW
    learner[0].rows.clear()  # a plain attribute, by which bases are told apart
    learner[1] = Counting(2)
    store.attach(learner, "fp32")
    assert store.used == 200 * ROW
    learner[1](batch(torch.arange(200)))
    assert store.used == 400 * ROW


def frames(numbers: list[int], window: int) -> Inputs:
    ids = torch.tensor(numbers)
    return Inputs({"x": X[ids % COUNT]}, ids, window=window)


def test_of_a_film_the_latest_frames_are_remembered_and_older_ones_written_over() -> None:
    plain, base = Counting(), Counting()
    store = attached(base, taps=None)
    for numbers in ([0, 1, 2], [3, 4, 5], [2, 4], [6, 7], [0, 1]):
        found, expected = base(frames(numbers, 6)), plain(frames(numbers, 6))
        torch.testing.assert_close(found, expected)
    assert base.rows == [3, 3, 2, 2]  # frames 2 and 4 were known; 0 and 1 had gone
    assert store.used == 6 * (8 + 5) * 4


def test_a_film_that_does_not_fit_is_computed_at_every_visit() -> None:
    base = Counting()
    attached(base, limit=ROW)
    base(frames([0, 1], 6))
    base(frames([0, 1], 6))
    assert base.rows == [2, 2]


def test_a_film_is_not_written_to_disk(tmp_path: Path) -> None:
    base = Counting()
    store = attached(base, folder=tmp_path, data="film")
    base(frames([0, 1], 6))
    store.save()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_two_tasks_are_told_apart() -> None:
    plain, base = Counting(), Counting()
    attached(base)
    for task, first in (("t0", 0), ("t0", 0), ("t1", 100), ("t0", 0)):
        ids = torch.arange(4)
        inputs = Inputs({"x": X[ids + first]}, ids, window=8, task=task)
        assert torch.equal(base(inputs).encoding, plain(inputs).encoding)
    assert len(base.rows) == 3


def test_frames_may_have_negative_ids() -> None:
    plain, base = Counting(), Counting()
    attached(base)
    ids = torch.tensor([-1, -2, -3, -4])
    for _ in range(2):
        inputs = Inputs({"x": X[ids]}, ids, window=8)
        assert torch.equal(base(inputs).encoding, plain(inputs).encoding)
    assert base.rows == [4]
