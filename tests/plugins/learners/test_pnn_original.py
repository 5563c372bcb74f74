"""Progressive networks with the lateral connections of the original side-tuning code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.assembly.trainable import _BlankTask
from sidetune_core.config.kinds import BASE, LEARNER, MERGER, SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.errors import FitError, OptionError
from sidetune_core.interfaces.learner import Components
from sidetune_core.seeding import seeded
from sidetune_core.testing import check_plugin, sample

IMAGES = {"image": (3, 32, 32)}


class Named(_BlankTask):
    """A task without data."""

    def __init__(self, number: int) -> None:
        super().__init__(IMAGES)
        self.id = f"t{number}"


@pytest.fixture(scope="module")
def learner() -> Any:
    """``fcn4`` above ``resnet20``, which has the taps of ``resnet44``; three tasks, dense."""
    resnet, fcn4, alpha = (
        load(find(*name)) for name in ((BASE, "resnet20"), (SIDE, "fcn4"), (MERGER, "alpha"))
    )
    components = Components(
        IMAGES,
        lambda pretrained=True: resnet(resnet.Config(weights="none"), IMAGES),
        lambda base, pretrained=True: fcn4(fcn4.Config(weights="none"), IMAGES, base),
        lambda base, count: alpha(alpha.Config(), base.shape, count),
    )
    cls = load(find(LEARNER, "pnn"))
    with seeded(0, "build"):
        made = cls(cls.Config(form="original", dense=True), components)
        for number in range(3):
            made.start(Named(number))
    return made.eval()


def test_it_keeps_the_contract_of_a_learner() -> None:
    findings = check_plugin("learner", "pnn", {"form": "original", "dense": True})
    assert [finding for finding in findings if not finding.passed and finding.outcome != "skipped"] == []


def test_a_column_has_the_published_number_of_parameters(learner: Any) -> None:
    counts = [
        sum(
            weight.numel() for part in (learner.sides, learner.laterals) for weight in part[task].parameters()
        )
        for task in ("t0", "t1", "t2")
    ]
    assert counts == [37_428, 37_428 + 30_947, 37_428 + 2 * 30_947]


def adapt(adapter: Any, x: Tensor, stride: int = 1) -> Tensor:
    scale, first, norm, _, last = adapter
    x = functional.conv2d(scale.scale * x, first.weight, stride=stride)
    return functional.conv2d(functional.group_norm(x, 2, norm.weight, norm.bias).relu(), last.weight)


def test_it_computes_what_the_original_code_does(learner: Any) -> None:
    """Its sizes are 32, 15, 7 and 4: maps of the base are pooled by two and cropped, and so is the last."""
    image = {"image": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    pool = lambda maps, size: functional.max_pool2d(maps, 2)[:, :, :size, :size]  # noqa: E731
    with torch.no_grad():
        features = learner.base(image)
        taps, columns = features.taps, []
        assert [tap.shape[-1] for tap in taps] == [32, 32, 16, 8]
        for number, task in enumerate(("t0", "t1", "t2")):
            side, laterals = learner.sides[task], learner.laterals[task]
            base = [adapt(adapter, tap) for adapter, tap in zip(laterals.from_base, taps, strict=True)]
            base[1:] = [pool(maps, size) for maps, size in zip(base[1:], (15, 7, 4), strict=True)]
            x, stages = (image["image"] - side.mean) / side.std, []
            for stage, layer in enumerate((side.conv1, side.conv2, side.conv3, side.conv5)):
                total = layer[0](x)
                if stage > 0:
                    for column, adapter in zip(columns, laterals.from_columns[stage - 1], strict=True):
                        total = total + adapt(adapter, column[stage - 1], stride=(2, 2, 1)[stage - 1])
                size = (32, 15, 7, 4)[stage]
                x = layer[1:](total[:, :, :size, :size] + base[stage])
                stages.append(x)
            columns.append(stages)
            expected = learner.mergers[task]([features.encoding, x.mean((2, 3))])
            torch.testing.assert_close(
                learner(image, task), learner.heads.predict(expected, task), rtol=1e-4, atol=1e-5
            )
            assert len(columns) == number + 1


def test_the_form_of_the_original_code_has_no_linear_adapters() -> None:
    cls = load(find(LEARNER, "pnn"))
    components = Components(
        sample.INPUTS, lambda pretrained=True: sample.TinyBase((64,)), lambda *_: None, lambda *_: None
    )
    with pytest.raises(OptionError, match="leave out --learner.adapter"):
        cls(cls.Config(form="original", adapter="linear"), components)


def test_a_tap_smaller_than_its_stage_is_refused() -> None:
    from sidetune_plugins.learners.pnn.original import OriginalColumn

    base = sample.TinyBase((64,))
    with pytest.raises(FitError, match=r"tap 0 of the base is \(16, 1, 1\)"):
        OriginalColumn([(16, 1, 1)], 0, sample.TinySide(base.shape))
