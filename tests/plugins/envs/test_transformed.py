"""Envs `permuted` and `rotated`: another env with its images transformed in each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sidetune_plugins.envs.classification.digits import Digits
from sidetune_plugins.envs.classification.stream import ImageOptions
from sidetune_plugins.envs.transformed.permuted import Permuted
from sidetune_plugins.envs.transformed.rotated import Rotated
from sidetune_plugins.envs.transformed.stream import TransformedHandler
from sidetune_plugins.envs.transformed.transforms import Permutation, Rotation, read_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

import sidetune_core
from sidetune_core import api
from sidetune_core.config.arguments import Argument, make_spellings
from sidetune_core.config.options import structure


def images_of(task: api.SupervisedTask, split: str = "test") -> Tensor:
    return next(iter(task.batches(split))).inputs["image"]


@pytest.fixture(scope="module")
def digits() -> api.SupervisedTask:
    (task,) = Digits(ImageOptions(classes_per_task=10), 0).tasks()
    return task


@pytest.fixture(scope="module")
def permuted() -> list[Permuted]:
    """Of two seeds; their tasks are made."""
    streams = [Permuted(Permuted.Config(count=3), seed) for seed in (0, 1)]
    for stream in streams:
        stream.made = stream.tasks()  # type: ignore[attr-defined]
    return streams


# Permutations


def test_task_0_has_the_images_as_they_are(permuted: Any, digits: api.SupervisedTask) -> None:
    tasks = permuted[0].made
    assert [task.title for task in tasks] == ["not permuted", "permutation 1", "permutation 2"]
    assert all(task.outputs == digits.outputs for task in tasks)
    assert torch.equal(images_of(tasks[0]), images_of(digits))


def test_each_task_has_one_order_of_the_pixels(permuted: Any, digits: api.SupervisedTask) -> None:
    """Found from the images: the order in which the first 250 have their values is that of all others."""
    task = permuted[0].made[1]
    order = api.derive_seed(0, "permutation", 1) % 2**63
    expected = torch.randperm(32 * 32, generator=torch.Generator().manual_seed(order))
    for split in ("train", "test"):
        before, after = images_of(digits, split), images_of(task, split)
        assert torch.equal(after.flatten(2), before.flatten(2)[:, :, expected])
    assert not torch.equal(images_of(task), images_of(permuted[0].made[2]))


def test_the_seed_draws_the_permutations_and_the_data_are_known_to_be_the_same(permuted: Any) -> None:
    first, second = permuted
    assert torch.equal(images_of(first.made[0]), images_of(second.made[0]))
    assert not torch.equal(images_of(first.made[1]), images_of(second.made[1]))
    assert first.fingerprint() != second.fingerprint()
    assert first.data_fingerprint() != second.data_fingerprint()
    assert first.content_fingerprint() == second.content_fingerprint()
    parts = [stream.made[1].data_parts() for stream in permuted]
    assert parts[0].keys() == parts[1].keys()
    assert all(parts[0][name] != parts[1][name] for name in parts[0])


# Rotations


@pytest.mark.parametrize("degrees", [18.0, 77.5, 200.0, -30.0])
@pytest.mark.parametrize("shape", [(24, 24), (16, 30)])
def test_a_rotation_equals_that_of_torchvision(degrees: float, shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    expected = rotate(images, degrees, InterpolationMode.BILINEAR)
    torch.testing.assert_close(Rotation(degrees)(images), expected, atol=2e-5, rtol=0)


def test_right_angles_move_pixels_exactly() -> None:
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    for turns in range(-1, 5):
        assert torch.equal(Rotation(90.0 * turns)(images), torch.rot90(images, turns, (2, 3)))


def test_angles_are_equal_steps_or_those_of_the_user() -> None:
    equal = Rotated(Rotated.Config(count=4), 0).transforms()
    assert [transform for _, transform in equal] == [Rotation(angle) for angle in (0, 45, 90, 135)]
    own = Rotated(Rotated.Config(degrees=(0, 30)), 0).transforms()
    assert [title for title, _ in own] == ["rotated by 0 degrees", "rotated by 30 degrees"]


# Other envs


def test_options_of_the_other_env_are_read_by_their_types(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 20, 3), np.uint8)
    labels = np.arange(8) % 2
    path = tmp_path / "a=b.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = (f"archive={path}", "image-size=16", "val-fraction=0.25")
    stream = Permuted(Permuted.Config(of="images", options=options, count=2), 0)
    tasks = stream.tasks()
    assert stream.inputs == {"image": (3, 16, 16)}
    assert [tasks[1].size(split) for split in ("train", "val", "test")] == [6, 2, 8]


def test_a_comma_belongs_to_the_value_of_an_option() -> None:
    typed = [Argument("--env.options", ("tasks=1,2|3,4",))]
    assert make_spellings({"env": Permuted.Config}).present(typed) == typed
    config = structure(Permuted.Config, {"options": "tasks=1,2|3,4"}, "env 'permuted'")
    assert config.options == ("tasks=1,2|3,4",)


def test_the_other_env_takes_the_images_that_the_base_asks_for() -> None:
    config = Permuted.Config(of="images", options=("archive=x.npz",))
    fitted = Permuted.fit_images(config, api.ImageInput(64))
    assert set(fitted.options) == {
        "archive=x.npz",
        "image-size=64",
        "interpolation=bilinear",
        "crop-fraction=1.0",
    }
    assert Permuted.fit_images(fitted, None) == fitted


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"of": "nothing"}, "no env named 'nothing'"),
        ({"of": "squad"}, "--env.of squad: its inputs are .*images are expected"),
        ({"options": ("classes-per-tsk=2",)}, "env 'digits' has no option 'classes-per-tsk'. Did you mean"),
        ({"options": ("classes-per-task",)}, "write NAME=VALUE"),
        ({"options": ("classes-per-task=two",)}, "classes-per-task must be int | none, not 'two'"),
        ({"options": ("classes-per-task=0",)}, "classes-per-task must be at least 1"),
        ({"options": ("augment=none", "augment=none")}, "option 'augment' is given twice"),
        ({"options": ("augment=crop",)}, "augment: must be one of none, crop-flip"),
    ],
)
def test_errors_say_what_to_type(options: dict[str, Any], match: str) -> None:
    with pytest.raises(api.SidetuneError, match=match):
        Permuted(Permuted.Config(**options), 0)


def test_an_env_of_several_tasks_is_refused() -> None:
    stream = Permuted(Permuted.Config(options=("classes-per-task=5",)), 0)
    with pytest.raises(api.OptionError, match="--env.of digits has 2 tasks here, and one task"):
        stream.tasks()
    with pytest.raises(api.OptionError, match="1 of 2 angles are equal to others"):
        Rotated(Rotated.Config(degrees=(10, 370)), 0)
    with pytest.raises(api.OptionError, match="leave out --env.count"):
        Rotated(Rotated.Config(degrees=(10,), count=1), 0)


# Cards


def test_raw_images_are_transformed_as_in_training(permuted: Any, digits: api.SupervisedTask) -> None:
    task = permuted[0].made[1]
    card = api.TaskCard("t1", "", "permuted", task.inputs, task.outputs, "accuracy", values=task.card())
    handler = Permuted.handler(api.TaskCard.from_json(card.to_json()))
    raw = images_of(digits)[:4]
    assert torch.equal(handler.preprocess([*raw]).inputs["image"], images_of(task)[:4])
    assert torch.equal(handler.transform()((raw * 255).round().byte()), images_of(task)[:4])


def test_cards_cannot_name_code_or_other_transformations(permuted: Any) -> None:
    task = permuted[0].made[1]
    for values, error in (
        ({**task.card(), "of": "os:system"}, api.PluginError),
        ({**task.card(), "transform": {"kind": "permutation", "seed": "x"}}, ValueError),
        ({**task.card(), "transform": {"kind": "shear"}}, ValueError),
    ):
        card = api.TaskCard("t1", "", "permuted", task.inputs, task.outputs, "accuracy", values=values)
        with pytest.raises(error):
            TransformedHandler(card)
    for transform in (Permutation(None), Permutation(3), Rotation(12.5)):
        assert read_transform(transform.to_json()) == transform


# Runs


def test_a_run_is_trained_resumed_and_predicts(tmp_path: Path, digits: api.SupervisedTask) -> None:
    spec = sidetune_core.RunSpec(
        env=sidetune_core.Choice("permuted", {"count": 2}),
        base=sidetune_core.Choice("mlp", {"width": 16}),
        learner=sidetune_core.Choice("independent"),
        side=sidetune_core.Choice("mlp"),
        train={"steps": 3, "batch_size": 16},
    )
    run = sidetune_core.run(spec, out=tmp_path / "run")
    assert sidetune_core.resume(tmp_path / "run").results == run.results
    model = sidetune_core.load(tmp_path / "run")
    batches = list(digits.batches("test"))
    images = torch.cat([batch.inputs["image"] for batch in batches])
    labels = [str(label) for batch in batches for label in batch.targets.tolist()]
    predicted = [prediction.label for prediction in model.predict([*images], task="t1")]
    correct = sum(one == label for one, label in zip(predicted, labels, strict=True))
    assert correct / len(labels) == run.results.rows[1][1]
