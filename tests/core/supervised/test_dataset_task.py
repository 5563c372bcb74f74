"""Tasks from datasets: kinds, labels, conversions, fingerprints, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from sidetune_core import Task
from sidetune_core.errors import DataError, OptionError

from .datasets_for_tests import Fixed

X = torch.arange(36.0).reshape(12, 3)


def of(*labels: Any) -> Any:
    """A dataset with these targets."""
    return [(X[row], label) for row, label in enumerate(labels)]


def make(train: Any, test: Any = None, **options: Any) -> Any:
    return Task.from_dataset(train, train if test is None else test, **{"input": "x", **options})


def targets(task: Any, split: str = "train") -> list[Any]:
    values: Tensor = task.sources[split].targets()
    return values.tolist()


@pytest.mark.parametrize(
    ("labels", "options", "expected", "names"),
    [
        ([3, 1, 3], {}, [1, 0, 1], ("1", "3")),
        (["dog", "cat", "dog"], {}, [1, 0, 1], ("cat", "dog")),
        (["dog", "cat", "dog"], {"classes": ["dog", "cat"]}, [0, 1, 0], ("dog", "cat")),
        ([0, 1, 0], {"classes": ["dog", "cat"]}, [0, 1, 0], ("dog", "cat")),
        ([1, 2, 1], {"classes": ["dog", "cat"]}, [0, 1, 0], ("dog", "cat")),
        ([-1, 7, -1], {"classes": [7, -1]}, [1, 0, 1], ("7", "-1")),
        ([np.int64(2), torch.tensor(4), 2.0], {}, [0, 1, 0], ("2", "4")),
        ([5, 5, 5], {}, [0, 0, 0], ("5",)),
    ],
)
def test_labels_of_any_kind_are_numbered_in_the_order_of_the_classes(
    labels: list[Any], options: dict[str, Any], expected: list[int], names: tuple[str, ...]
) -> None:
    task = make(of(*labels), **options)
    assert targets(task) == expected
    assert task.outputs.names == names
    assert task.metric == "accuracy"


def test_the_names_are_those_of_the_dataset() -> None:
    dataset = Fixed()
    dataset.classes = ["ant", "bee", "cow"]  # type: ignore[attr-defined]
    assert make(dataset).outputs.names == ("ant", "bee", "cow")
    assert make(Subset(dataset, [1, 2]), classes=["cow", "bee"]).outputs.names == ("cow", "bee")
    assert targets(make(Subset(dataset, [1, 2]), classes=["cow", "bee"])) == [1, 0]


def test_several_labels_are_a_vector_or_their_names() -> None:
    task = make(of([1, 0], [0, 0]), labels=["red", "big"])
    assert targets(task) == [[1, 0], [0, 0]]
    assert targets(make(of(["big"], ["red", "big"]), labels=["red", "big"])) == [[0, 1], [1, 1]]
    assert (task.outputs.kind, task.metric) == ("binary", "map")


def test_values_are_one_or_several() -> None:
    task = make(of(1.5, 2.5), values=1)
    assert targets(task) == [[1.5], [2.5]]
    assert targets(make(of([1, 2], np.array([3, 4])), values=["x", "y"])) == [[1, 2], [3, 4]]
    assert (task.outputs.kind, task.higher_is_better) == ("regression", False)


class Unread(Fixed):
    """Counts how many examples are read."""

    def __init__(self, targets: list[int]) -> None:
        super().__init__(len(targets))
        self.targets, self.reads = targets, 0

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        self.reads += 1
        return X[row % 12], row % 3


def test_stored_targets_that_agree_spare_reading_the_inputs() -> None:
    agreeing, other = Unread([row % 3 for row in range(100)]), Unread([0] * 100)
    assert targets(make(agreeing, of(0, 1, 2))) == [row % 3 for row in range(100)]
    assert targets(make(other, of(0, 1, 2))) == [row % 3 for row in range(100)]
    assert agreeing.reads < 30
    assert other.reads >= 100


@pytest.mark.parametrize("wrap", [lambda one: Subset(one, [11, 3]), lambda one: ConcatDataset([one, one])])
def test_the_targets_of_parts_of_a_dataset_are_theirs(wrap: Any) -> None:
    dataset = wrap(TensorDataset(X, torch.arange(12) % 3))
    expected = [int(dataset[row][1]) for row in range(len(dataset))]
    assert targets(make(dataset, of(2, 0), classes=[0, 1, 2])) == expected


def test_images_of_pillow_are_floats_in_the_unit_interval() -> None:
    image = Image.fromarray(np.full((4, 6), 51, np.uint8))
    task = Task.from_dataset([(image, 0), (image, 1)], [(image, 0)])
    batch = next(iter(task.batches("test")))
    assert task.inputs == {"image": (3, 4, 6)}
    torch.testing.assert_close(batch.inputs["image"], torch.full((1, 3, 4, 6), 0.2))
    assert "Pillow images" in task.notes[0]
    assert Task.from_dataset([(image, 0)], [(image, 0)], image_size=2).inputs == {"image": (3, 2, 2)}


def test_bytes_are_divided_and_numbers_keep_their_kind() -> None:
    pixels = np.full((3, 2, 2), 255, np.uint8)
    dataset = [({"image": pixels, "tokens": torch.tensor([1, 2])}, 0)]
    batch = next(iter(Task.from_dataset(dataset, dataset).batches("test")))
    assert float(batch.inputs["image"].max()) == 1
    assert batch.inputs["tokens"].dtype == torch.int64


def test_an_example_that_is_a_dict_has_a_target_by_name() -> None:
    dataset = [{"pixel_values": X[0], "label": 0}, {"pixel_values": X[1], "label": 1}]
    assert make(dataset).inputs == {"x": (3,)}


def test_transforms_are_applied() -> None:
    task = make(of(0, 1), transform=lambda x: x[:2] * 2, target_transform=lambda y: 1 - y)
    assert targets(task) == [1, 0]
    assert next(iter(task.batches("test"))).inputs["x"].tolist() == [[0, 2], [6, 8]]


def test_classes_are_weighted_and_sampled() -> None:
    task = make(of(0, 0, 0, 1), class_weights="balanced", sampling="balanced")
    weights = task.objective.weights
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 2.0]))
    assert task.sampling == "balanced"


def test_the_fingerprint_follows_targets_inputs_and_names_but_no_workers() -> None:
    prints = [
        make(of(0, 1, 1)).fingerprint(),
        make(of(0, 1, 1), workers=1).fingerprint(),
        make(of(0, 1, 0)).fingerprint(),
        make(of(0, 1, 1), transform=lambda x: x + 1).fingerprint(),
        make(of(0, 1, 1), data="v2").fingerprint(),
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_the_parts_of_the_data_are_splits_and_classes() -> None:
    before, after = (make(of(*labels)).data_parts() for labels in ((0, 1, 1), (0, 1, 1, 1)))
    assert before["train/1"].count == 2
    assert after["train/1"].count == 3
    assert before["train/0"] == after["train/0"]


class NoLength(Dataset[Any]):
    """A map-style dataset without a length."""

    def __getitem__(self, row: int) -> Any:
        return X[row], 0


class BadLength(NoLength):
    """A length below 0."""

    def __len__(self) -> int:
        return -1


def loader() -> Any:
    return DataLoader(TensorDataset(X, torch.zeros(12)))


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (NoLength(), {}, r"train dataset \(NoLength\) has no length: define __len__"),
        ([], {}, "train dataset .* is empty"),
        (NoLength, {}, "train is the class NoLength: give an instance"),
        (3, {}, "is no torch Dataset"),
        (loader(), {}, "train=loader.dataset"),
        ([X[0], X[1]], {}, "2 of 2 examples .*it is a Tensor; expected a pair"),
        ((X[:4], torch.arange(4)), {}, r"has arrays .*TensorDataset\(inputs, targets\)"),
        (X, {}, "TensorDataset"),
        ({"a": 1}, {}, "is no torch Dataset"),
        ((example for example in of(0, 1)), {"classes": [0, 1]}, "can be read only once"),
        (BadLength(), {}, "its length cannot be read .ValueError: .*>= 0"),
        ([(X[0], 0, 1)], {}, "it is a tuple of 3; expected a pair"),
        ([{"x": X[0]}], {}, "without a key for the target"),
        ([("text", 0)], {}, "input 'x' is a str; expected a tensor"),
        ([(np.array(["a"]), 0)], {}, "expected numbers"),
        (of(0, 0.5), {}, "its target is float 0.5; a class is an integer or a name"),
        (of([0, 1], [1, 0]), {}, "for several labels pass labels="),
        (of(0, "cat"), {}, "some labels are integers and some are names"),
        (of(0, 1, 2), {"classes": [0, 1]}, r"1 of 3 examples have labels that are not in classes=: 2 \(1\)"),
        (of(0, 1), {"classes": ["a", "a"]}, "names a more than once"),
        (of(0, 1), {"classes": "ab"}, "classes= is a list of names"),
        (of(0, 1), {"classes": [0, 1], "values": 1}, "classes and values are given"),
        (of([1, 0, 1]), {"labels": ["a", "b"]}, r"shape \(3,\); expected 2 values of 0 or 1"),
        (of([1, 2]), {"labels": ["a", "b"]}, "values other than 0 and 1"),
        (of(["a", "c"]), {"labels": ["a", "b"]}, "'c' is none of the 2 labels"),
        (of(1.0, float("nan")), {"values": 1}, "1 of 2 examples .*NaN"),
        (of([1.0, 2.0]), {"values": 3}, "2 values, expected 3"),
        (of([1.0]), {"values": []}, "values= is a number of values or their names"),
        (of([1.0, 2.0]), {"values": ["a", "a"]}, "values= names a more than once"),
        (of(["a"]), {"labels": ["a", "a"]}, "labels= names a more than once"),
        (of(0, 1), {"id": "a b/c"}, "id= is a name of letters"),
        (of(0, 1), {"image_size": 0}, "image_size= is a number of pixels"),
        (of(0, 1), {"image_size": 8}, "image_size= resizes Pillow images, and it returns x .3,.: leave out"),
        (of(0, 1), {"transform": 3}, "transform= is a function"),
        (of(1.0), {"values": 1, "class_weights": "balanced"}, "class_weights is for classes"),
        (of(0, 1), {"workers": True}, "workers= is a number"),
        (of(0, 1), {"workers": -1}, "workers= is a number"),
        (of(0, 1), {"sampling": "equal"}, "sampling= is 'uniform' or 'balanced'"),
    ],
)
def test_what_is_no_dataset_of_the_task_is_said(train: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, OptionError), match=message):
        make(train, of(0), **options)


def test_a_class_in_the_test_examples_only_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"2 of 3 examples of split 'test' .* no training example has: 2 \(2\)"
    ):
        make(of(0, 1), of(0, 2, 2))
    with pytest.raises(
        DataError, match=r"1 of 2 examples of split 'test' .* no training example has: 2 \(1\)"
    ):
        make(of(0, 1), of(0, 2), classes=[0, 1, 2])


def test_examples_with_the_same_fault_are_reported_together() -> None:
    with pytest.raises(DataError, match="examples 0, 1, 2 and 2 more: it is a Tensor"):
        make([X[0]] * 5)
