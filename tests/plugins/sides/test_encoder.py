"""Sides on sequences: encoder and ladder-text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.config import kinds, registry
from sidetune_core.errors import FitError
from sidetune_core.testing import sample


def side(name: str, base: Any, inputs: Mapping[str, tuple[int, ...]] = sample.TEXT, **options: Any) -> Any:
    cls = registry.load(registry.find(kinds.SIDE, name))
    return cls(cls.Config(**options), inputs, base).eval()


@pytest.fixture
def base() -> sample.TinyReader:
    torch.manual_seed(0)
    return sample.TinyReader().eval()


SMALL: Any = [
    ("encoder", {"init": "copy", "layers": 1}),
    ("encoder", {"init": "random", "width": 8}),
    ("ladder-text", {"width": 8}),
]


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_padding_does_not_matter_and_is_zero(
    name: str, options: dict[str, Any], base: sample.TinyReader
) -> None:
    made = side(name, base, **options)
    pair, alone = sample.texts([0, 1]), sample.texts([1])
    batched, single = made(pair, base(pair)), made(alone, base(alone))
    assert single.shape == (1, 7, 8)
    torch.testing.assert_close(batched[1:, :7], single)
    assert not batched[1, 7:].any()


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_no_gradient_reaches_the_base(name: str, options: dict[str, Any], base: sample.TinyReader) -> None:
    made, batch = side(name, base, **options).train(), sample.texts([0, 1])
    with torch.no_grad():
        features = base(batch)
    made(batch, features).sum().backward()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())


def test_a_copy_initially_encodes_as_the_layer_of_the_base(base: sample.TinyReader) -> None:
    batch = sample.texts([0, 1, 2])
    features = base(batch)
    assert torch.equal(side("encoder", base, layers=1)(batch, features), features.taps[1])


def test_the_embeddings_of_a_copy_are_saved_and_not_trained(base: sample.TinyReader) -> None:
    made = side("encoder", base, layers=1)
    assert [name for name, _ in made.named_parameters()] == ["copied.layers.0.weight", "copied.layers.0.bias"]
    assert "copied.embeddings.weight" in made.state_dict()
    assert made.copied.embeddings.weight.data_ptr() != base.embeddings.weight.data_ptr()


def test_the_gates_of_a_ladder_mix_the_previous_layer_with_the_tap(base: sample.TinyReader) -> None:
    made, batch = side("ladder-text", base, width=8, heads=2), sample.texts([0, 3])
    features = base(batch)
    assert torch.equal(torch.sigmoid(made.gates / made.temperature), torch.full((2,), 0.5))
    before = made(batch, features)
    others = features._replace(taps=(features.taps[0], torch.randn_like(features.taps[1])))
    assert not torch.equal(made(batch, others), before)
    with torch.no_grad():
        made.gates.fill_(100.0)  # the previous layer only
    assert torch.equal(made(batch, others), made(batch, features))


def test_a_ladder_with_minilm_is_small() -> None:
    class Deep(sample.TinyReader):
        def __init__(self) -> None:
            super().__init__()
            self.shape = (12, 384)
            self.tap_shapes = (self.shape,) * 6

    width, rungs = 96, 6
    layer = 4 * width + 4 * width * width + 4 * width + 8 * width * width + 5 * width
    adapters = (rungs + 1) * (384 * width + width)
    count = sum(parameter.numel() for parameter in side("ladder-text", Deep()).parameters())
    assert count == adapters + rungs + rungs * layer + 2 * width + (width * 384 + 384) == 967_206


@pytest.mark.parametrize("name", ["encoder", "ladder-text"])
def test_a_base_of_images_is_refused(name: str) -> None:
    with pytest.raises(FitError, match=f"side '{name}' needs"):
        side(name, sample.TinyBase((64,)), sample.INPUTS)


def test_unfit_options_and_bases_are_refused(base: sample.TinyReader) -> None:
    with pytest.raises(FitError, match="width 8 is not a multiple of heads 3"):
        side("ladder-text", base, width=8, heads=3)
    base.vocabulary_size = None  # type: ignore[assignment]
    with pytest.raises(FitError, match="declares its vocabulary_size"):
        side("encoder", base, init="random")


def test_a_base_that_cannot_be_cut_is_refused() -> None:
    class Whole(sample.TinyReader):
        first_layers: Any = None

    with pytest.raises(FitError, match="Whole cannot be truncated to 2 layers"):
        side("encoder", Whole())


def test_an_example_of_padding_only_is_finite(base: sample.TinyReader) -> None:
    blank: dict[str, Tensor] = {name: torch.zeros(1, 12) for name in sample.TEXT}
    features = base(sample.texts([0]))
    for name, options in SMALL[1:]:
        assert side(name, base, **options)(blank, features).isfinite().all()
