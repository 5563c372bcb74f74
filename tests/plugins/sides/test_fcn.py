"""FCN3, FCN5 and FCN8: sizes, keys, maps and skips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.api import Base, Features, FitError, WeightsError
from sidetune_core.config.kinds import BASE, ENV, SIDE
from sidetune_core.config.registry import find, load

NO_FEATURES = Features(torch.zeros(0))
COUNTS = {"fcn3": 178_816, "fcn5": 921_376, "fcn8": 3_361_440}
MAPS = {"fcn3": [63, 33, 16], "fcn5": [64, 32, 16, 16, 16], "fcn8": [64, 32, 16, 16, 16, 16, 16, 16]}


class Plain(Base):
    """A base that only declares a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(torch.zeros(len(inputs["image"]), *self.shape))


def make(name: str, size: int = 64, shape: tuple[int, ...] = (8, 4, 4)) -> Any:
    cls = load(find(SIDE, name))
    return cls(cls.Config(), {"image": (3, size, size)}, Plain(*shape))


@pytest.mark.parametrize("name", COUNTS)
def test_they_have_the_published_number_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in make(name).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_their_maps_have_the_published_sizes(name: str) -> None:
    side = make(name, 256, (8, 16, 16))
    assert [shape[1] for shape in side.stage_shapes] == MAPS[name]
    assert side.stage_shapes[-1] == (8, 16, 16)


def test_keys_of_fcn5_are_those_of_the_published_students() -> None:
    layers = [*(f"conv{k}" for k in range(1, 6)), "skip"]
    assert set(make("fcn5").state_dict()) == {
        f"{layer}.{key}" for layer in layers for key in ("0.weight", "1.weight", "1.bias")
    }


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    ("size", "shape"), [(128, (8, 8, 8)), (64, (8, 4, 4)), (64, (8, 2, 2)), (64, (6, 8, 8)), (33, (8, 2, 2))]
)
def test_they_encode_as_the_base_does_at_any_size(name: str, size: int, shape: tuple[int, ...]) -> None:
    assert make(name, size, shape)({"image": torch.rand(2, 3, size, size)}, NO_FEATURES).shape == (2, *shape)


def test_fcn5_is_the_sum_of_its_chain_and_its_skip() -> None:
    side = make("fcn5")
    image = torch.rand(2, 3, 64, 64)
    second = side.conv2(side.conv1(2 * image - 1))
    expected = side.conv5(side.conv4(side.conv3(second))) + side.skip(second)
    assert torch.equal(side({"image": image}, NO_FEATURES), expected)


def test_each_skip_of_fcn8_starts_where_the_previous_one_ends() -> None:
    side = make("fcn8")
    image = torch.rand(1, 3, 64, 64)
    second = side.conv2(side.conv1(2 * image - 1))
    fourth = side.conv4(side.conv3(second)) + side.skip1(second)
    sixth = side.conv6(side.conv5(fourth)) + side.skip2(fourth)
    expected = side.conv8(side.conv7(sixth)) + side.skip3(sixth)
    assert torch.equal(side({"image": image}, NO_FEATURES), expected)


def test_lateral_inputs_are_added_before_the_activation() -> None:
    side = make("fcn5")
    image = {"image": torch.rand(1, 3, 64, 64)}
    low = side.run(image, lambda stage: -1e6 if stage == 2 else 0.0)
    assert float(low[2].max()) == 0
    assert torch.equal(low[1], side.run(image)[1])


def test_bases_that_encode_as_no_map_do_not_fit() -> None:
    with pytest.raises(
        FitError, match=r"side 'fcn5' encodes as a map \(C, H, W\) with even C, but the base as \(64,\)"
    ):
        make("fcn5", shape=(64,))
    with pytest.raises(FitError, match="side 'fcn3' needs an input 'image'"):
        make("fcn3", size=15)


def test_the_packaged_student_approximates_its_teacher() -> None:
    rooms = load(find(ENV, "rooms"))
    stream = rooms(
        rooms.Config(domains=("class_room",), num_images=8, num_test_images=48, series=1001, cache=False), 0
    )
    teacher_cls, cls = load(find(BASE, "taskonomy")), load(find(SIDE, "fcn5"))
    teacher = teacher_cls(teacher_cls.Config(width=10, weights="packaged"), stream.inputs).eval()
    (task,) = stream.tasks()
    batches = []

    def predict(inputs: Mapping[str, Tensor]) -> Tensor:
        batches.append(inputs["image"])
        return torch.zeros(len(inputs["image"]), 8)

    task.evaluate(predict)
    images = torch.cat(batches)
    with torch.no_grad():
        features = teacher({"image": images})
        student = cls(cls.Config(weights="packaged"), stream.inputs, teacher).eval()(
            {"image": images}, features
        )
    error = (student - features.encoding).square().mean()
    variance = features.encoding.var(0, correction=0).mean()
    assert 0 < error < 0.35 * variance  # on unseen rooms; measured: 0.23
    fcn3 = load(find(SIDE, "fcn3"))
    with pytest.raises(WeightsError, match="side 'fcn3' has no packaged weights"):
        fcn3(fcn3.Config(weights="packaged"), stream.inputs, teacher)
