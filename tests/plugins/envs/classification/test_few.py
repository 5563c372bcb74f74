"""Training on few images: the draw, by env."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sidetune_plugins.envs.classification.digits import Digits
from sidetune_plugins.envs.classification.few import ClassCounts, ImageLimit

from sidetune_core import api


def train_ids(task: api.SupervisedTask) -> set[int]:
    source = task.sources["train"]
    return set(source.ids(torch.arange(len(source))).tolist())


def digits(seed: int = 0, **options: Any) -> list[api.SupervisedTask]:
    return list(Digits(Digits.Config(**options), seed).tasks())


def counts(task: api.SupervisedTask) -> list[int]:
    return torch.bincount(task.sources["train"].targets()).tolist()


def test_each_class_has_equally_many_images() -> None:
    assert [counts(task) for task in digits(max_images=20)] == [[10, 10]] * 5


def test_the_rest_of_the_division_goes_to_some_classes() -> None:
    assert sorted(counts(digits(classes_per_task=10, max_images=25)[0])) == [2] * 5 + [3] * 5


def test_a_larger_number_contains_the_images_of_a_smaller_one() -> None:
    few, more = (digits(classes_per_task=10, max_images=count)[0] for count in (25, 100))
    assert train_ids(few) < train_ids(more)


def test_the_draw_depends_on_the_seed_alone() -> None:
    one, same, other = (train_ids(digits(seed, max_images=10)[0]) for seed in (0, 0, 1))
    assert one == same != other


def test_the_other_splits_are_those_of_all_images() -> None:
    limited, whole = (digits(val_fraction=0.2, **options)[0] for options in ({"max_images": 10}, {}))
    for split in ("val", "test"):
        rows = torch.arange(len(whole.sources[split]))
        assert torch.equal(limited.sources[split].ids(rows), whole.sources[split].ids(rows))
    assert train_ids(limited) < train_ids(whole)


def test_the_data_are_the_same_however_many_are_drawn() -> None:
    """So that all runs share stored outputs of the base, and seeds are runs of one experiment."""
    limited, whole = Digits(Digits.Config(max_images=10), 1), Digits(Digits.Config(), 0)
    limited.tasks(), whole.tasks()
    assert limited.fingerprint() == whole.fingerprint()
    assert limited.content_fingerprint() == whole.content_fingerprint()


def test_too_few_images_of_a_class_are_counted_in_one_error() -> None:
    with pytest.raises(
        api.OptionError, match=r"10 of 10 classes .*0 of t0 \(\d+ of 200\).*pass --env.max-im"
    ):
        digits(max_images=400)


def test_the_number_that_the_error_advises_works() -> None:
    with pytest.raises(api.OptionError) as error:
        digits(max_images=400)
    most = int(str(error.value).rsplit(" ", 1)[1])
    assert [sum(counts(task)) for task in digits(max_images=most)] == [most] * 5


def test_a_task_with_more_classes_than_images_is_an_error() -> None:
    with pytest.raises(api.OptionError, match="1 of 1 tasks have more classes .* pass --env.max-images 10"):
        digits(classes_per_task=10, max_images=9)


def test_targets_that_are_no_classes_are_drawn_at_random() -> None:
    drawn = ImageLimit(3, 0).draw(torch.randn(8, 2), 0, "t0")
    assert drawn.sum() == 3
    with pytest.raises(api.OptionError, match=r"1 of 1 tasks .*t0 \(2 of 3\); pass --env.max-images 2"):
        ImageLimit(3, 0).check([ClassCounts("t0", (), (2,))])
