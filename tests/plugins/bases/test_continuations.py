"""What follows a tap of the small bases, on inputs that the conformance kit has not."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from sidetune_core.api import FitError
from sidetune_core.config.kinds import BASE
from sidetune_core.config.registry import find, load

IMAGE = {"image": (3, 48, 40)}
SYMBOLS = {"image": (3, 9, 9), "direction": (4,)}
VECTORS = {"position": (4,), "goal": (2, 2)}


def make(name: str, inputs: Any, **options: Any) -> Any:
    cls = load(find(BASE, name))
    torch.manual_seed(0)
    return cls(cls.Config(**options), inputs).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "inputs", "options", "taps"),
    [
        ("conv", SYMBOLS, {}, 3),
        ("nature-cnn", {**IMAGE, "direction": (4,)}, {}, 3),
        ("combined", SYMBOLS, {}, 3),
        ("combined", VECTORS, {}, 2),
        ("mlp", VECTORS, {"layers": 4}, 4),
        ("fcn5", IMAGE, {}, 2),
        ("taskonomy", IMAGE, {"width": 4}, 4),
    ],
)
def test_the_whole_copy_computes_the_encoding(
    name: str, inputs: Any, options: dict[str, Any], taps: int
) -> None:
    base = make(name, inputs, **options)
    batch = {key: torch.rand(2, *shape) for key, shape in inputs.items()}
    with torch.no_grad():
        features = base(batch)
        for tap in range(taps):
            continuation = pickle.loads(pickle.dumps(copy.deepcopy(base.continued(tap))))
            assert torch.equal(continuation(features.taps[tap], batch), features.encoding)
            following = [block for block in base.blocks() if block.after >= tap]
            weights = {
                name
                for name, _ in base.named_parameters()
                if any(name.startswith(f"{block.name}.") for block in following)
            }
            assert weights <= continuation.state_dict().keys() <= base.state_dict().keys()


def test_a_tap_beside_the_skip_connection_of_fcn5_is_refused() -> None:
    with pytest.raises(FitError, match="depends on tap 1, by the skip connection; choose tap 0 or 1"):
        make("fcn5", IMAGE).continued(2)


def test_layers_of_an_mlp_can_be_left_out() -> None:
    base = make("mlp", VECTORS, layers=4)
    tap = torch.rand(2, 64)
    with torch.no_grad():
        expected = base.layers[3](base.layers[1](tap).tanh()).tanh()
        assert torch.equal(base.continued(0, [1, 3])(tap, {}), expected)


def test_the_blocks_of_taskonomy_that_change_the_shape_are_needed() -> None:
    blocks = make("taskonomy", IMAGE, width=4).blocks()
    needed = [block.name for block in blocks if not block.optional]
    assert needed == ["layer1.0", "layer1.2", "layer2.0", "layer2.3", "layer3.0", "layer4.0"]
