"""scikit-learn's digits as a stream of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sidetune_plugins.envs.classification.digits import DATA
from sklearn.datasets import load_digits

from sidetune_core import api
from sidetune_core.config import kinds, registry

Digits = registry.load(registry.find(kinds.ENV, "digits"))


def stream(seed: int = 0, **options: Any) -> api.TaskStream:
    made: api.TaskStream = Digits(Digits.Config(**options), seed)
    return made


def test_it_has_five_tasks_of_two_digits() -> None:
    assert [task.title for task in stream().tasks()] == ["0, 1", "2, 3", "4, 5", "6, 7", "8, 9"]


def test_every_image_is_in_one_of_the_splits() -> None:
    data = Digits(Digits.Config(), 0).read()
    assert len(data.labels["train"]) + len(data.labels["test"]) == 1797


def test_a_quarter_of_each_digit_is_tested_on() -> None:
    data = Digits(Digits.Config(), 0).read()
    counts = torch.bincount(data.labels["train"]) + torch.bincount(data.labels["test"])
    assert (torch.bincount(data.labels["test"]) - counts / 4).abs().max() <= 0.5


def test_the_split_does_not_depend_on_the_seed() -> None:
    one, other = Digits(Digits.Config(), 0).read(), Digits(Digits.Config(), 1).read()
    assert torch.equal(one.images["test"], other.images["test"])


def test_the_packaged_digits_are_those_of_scikit_learn() -> None:
    original = load_digits()
    with np.load(DATA) as packaged:
        np.testing.assert_array_equal(packaged["images"], original.images)
        np.testing.assert_array_equal(packaged["labels"], original.target)


def test_images_are_the_originals_enlarged() -> None:
    """Bilinear weights worked out by hand, from a copy of scikit-learn's images that Digits did not touch."""
    enlarged = Digits(Digits.Config(), 0).read()
    original = load_digits()
    where = (torch.arange(32) + 0.5) / 4 - 0.5  # centres of the new pixels, counted in old ones
    weights = (1 - (where.clamp(0, 7)[:, None] - torch.arange(8)).abs()).clamp(min=0).double()  # (32, 8)
    expected = torch.einsum("ia,nab,jb->nij", weights, torch.from_numpy(original.images), weights) * 255 / 16
    for label in range(10):
        ours = torch.cat(
            [enlarged.images[split][enlarged.labels[split] == label] for split in ("train", "test")]
        )[:, 0]
        theirs = expected[torch.from_numpy(original.target) == label]
        distance = torch.cdist(ours.flatten(1).double(), theirs.flatten(1), p=float("inf"))
        assert (distance <= 0.5).sum() == len(
            theirs
        )  # each is one original, rounded, and all originals differ


def test_images_are_grey_in_three_channels() -> None:
    images = Digits(Digits.Config(), 0).read().images["train"]
    assert images.shape[1:] == (3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 2])
    assert (int(images.min()), int(images.max())) == (0, 255)


def test_the_declared_inputs_are_those_of_the_tasks() -> None:
    made = stream()
    assert all(task.inputs == made.inputs == {"image": (3, 32, 32)} for task in made.tasks())


def test_all_digits_make_one_task_if_asked_for() -> None:
    (task,) = stream(classes_per_task=10).tasks()
    assert task.title == "0 to 9"


def test_all_the_data_has_one_fingerprint_in_every_run() -> None:
    one, other = stream(seed=0), stream(seed=1)
    assert one.fingerprint() == ""  # nothing is read yet
    one.tasks(), other.tasks()
    assert one.fingerprint() == other.fingerprint() != ""


@pytest.mark.parametrize("number", range(5))
def test_pixels_alone_tell_the_two_digits_of_a_task_apart(number: int) -> None:
    """Nearest class mean, an independent baseline: labels and images belong together."""
    data = Digits(Digits.Config(), 0).read()
    pair = (2 * number, 2 * number + 1)
    flat = {split: data.images[split][:, 0].flatten(1).float() for split in ("train", "test")}
    means = torch.stack([flat["train"][data.labels["train"] == digit].mean(0) for digit in pair])
    chosen = torch.isin(data.labels["test"], torch.tensor(pair))
    nearest = torch.cdist(flat["test"][chosen], means).argmin(1) + pair[0]
    assert (nearest == data.labels["test"][chosen]).float().mean() > 0.9


def test_an_id_is_the_same_image_in_whatever_task_its_digit_is() -> None:
    images: list[dict[int, torch.Tensor]] = [{}, {}]
    for options, known in zip(({}, {"partition": "random"}), images, strict=True):
        for task in stream(1, **options).tasks():
            batch = next(task.train(lambda inputs: inputs["image"], api.Order(0, 200)))
            assert batch.inputs.ids is not None
            known |= zip(batch.inputs.ids.tolist(), batch.inputs["image"], strict=True)
    shared = images[0].keys() & images[1].keys()
    assert len(shared) > 400
    assert all(torch.equal(images[0][number], images[1][number]) for number in shared)


# Imbalanced classes


def test_class_weights_and_sampling_are_those_of_the_options() -> None:
    (plain, *_), (weighted, *_) = stream().tasks(), stream(class_weights="balanced").tasks()
    (sampled, *_) = stream(sampling="balanced").tasks()
    assert all(isinstance(task, api.SupervisedTask) for task in (plain, weighted, sampled))
    assert (plain.objective.weights, plain.sampling) == (None, "uniform")
    targets = weighted.sources["train"].targets()
    assert torch.equal(weighted.objective.weights, api.class_weights(targets, 2))
    assert (sampled.objective.weights, sampled.sampling) == (None, "balanced")


def test_both_corrections_at_once_are_an_error() -> None:
    with pytest.raises(api.OptionError, match=r"--env.sampling balanced both correct .*; use one of them"):
        stream(class_weights="balanced", sampling="balanced")
