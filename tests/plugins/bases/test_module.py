"""Any network as a base: what is its encoding, what are its taps, and what happens to the network."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

from sidetune_core.api import Features, FitError, OptionError
from sidetune_core.config.kinds import BASE
from sidetune_core.config.registry import find, load

Module = load(find(BASE, "module"))
IMAGE = {"image": (3, 16, 16)}


class Net(nn.Module):
    """Two stages whose maps an in-place ReLU rewrites, and a classifier; the ReLU is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.relu, self.drop, self.fc = nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(6, 10)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.relu(self.second(self.relu(self.first(image))))
        return self.fc(self.drop(maps.mean((2, 3))))


class Returns(nn.Module):
    """Returns what a function makes of maps (B, 4, 8, 8)."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 4, 3, 2, 1), make

    def forward(self, image: Tensor) -> Any:
        return self.make(self.conv(image))


def make(network: nn.Module, inputs: Any = None, **options: Any) -> Any:
    return Module.from_object(network, Module.Config(**options), inputs or IMAGE).eval()


def features(base: Any, image: Tensor) -> Features:
    with torch.no_grad():
        output: Features = base({"image": image})
    return output


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(5, 3, 16, 16)


def test_the_classifier_is_dropped_and_the_maps_are_taps(net: Net, image: Tensor) -> None:
    base = make(net)
    output = features(base, image)
    first = net.relu(net.first(image))
    second = net.relu(net.second(first))
    assert (base.shape, base.tap_shapes) == ((6,), ((4, 8, 8), (6, 4, 4)))
    assert torch.equal(output.encoding, second.mean((2, 3)))
    assert torch.equal(output.taps[0], first)
    assert torch.equal(output.taps[1], second)
    assert "without its last layer 'fc'" in base.summary()


def test_the_output_itself_can_be_the_encoding(net: Net, image: Tensor) -> None:
    assert torch.equal(features(make(net, encoding="output"), image).encoding, net(image))


def test_named_submodules_return_what_they_returned_before_it_was_rewritten(net: Net, image: Tensor) -> None:
    base = make(net, encoding="second", taps=("first", "relu"))
    output = features(base, image)
    first = net.first(image)
    assert torch.equal(output.taps[0], first)
    assert bool((first < 0).any())
    assert torch.equal(output.encoding, net.second(first.relu()))
    assert torch.equal(output.taps[1], output.encoding.relu())  # of the last call


def test_pixels_are_standardised_if_means_are_given(net: Net, image: Tensor) -> None:
    plain, standardised = make(net), make(net, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    shift, scale = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.2, 0.1])
    expected = features(plain, (image - shift.view(3, 1, 1)) / scale.view(3, 1, 1))
    torch.testing.assert_close(features(standardised, image).encoding, expected.encoding)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (lambda maps: (maps, "text"), (4, 8, 8)),
        (lambda maps: {"logits": maps.mean(1), "last_hidden_state": maps.flatten(2)}, (4, 64)),
        (lambda maps: {"features": [maps.mean((2, 3))]}, (4,)),
        (lambda maps: [None, maps], (4, 8, 8)),
    ],
)
def test_a_tensor_is_found_in_tuples_and_mappings(output: Any, shape: tuple[int, ...]) -> None:
    assert make(Returns(output)).shape == shape


def test_a_single_linear_layer_is_no_classifier() -> None:
    assert make(nn.Sequential(nn.Flatten(), nn.Linear(8, 5)), {"image": (8,)}).shape == (5,)


def test_a_network_of_tokens_gets_integers() -> None:
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU())
    base = make(tokens, {"tokens": (7,)}, input="tokens")
    assert base.shape == (7, 6)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    assert torch.equal(base({"tokens": ids}).encoding, tokens(ids))


def test_an_encoder_of_transformers_is_a_sequence() -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config.image_size, config.patch_size = 16, 8
    network = ViTModel(config, add_pooling_layer=False).eval()
    base, image = make(network), torch.rand(2, 3, 16, 16)
    assert base.shape == (5, 8)
    assert torch.equal(features(base, image).encoding, network(image).last_hidden_state)


def test_the_network_of_the_user_is_not_changed(image: Tensor) -> None:
    net = Net()  # in training mode, trainable
    before, generator = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    base = make(net)
    base.requires_grad_(False)
    features(base, image)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert isinstance(net.fc, nn.Linear)


def test_copies_and_pickles_compute_the_same(net: Net, image: Tensor) -> None:
    base = make(net)
    expected = features(base, image)
    for copied in (copy.deepcopy(base), pickle.loads(pickle.dumps(base))):
        assert torch.equal(features(copied, image).encoding, expected.encoding)
        assert torch.equal(features(copied, image).taps[0], expected.taps[0])


def test_threads_do_not_see_each_other(net: Net) -> None:
    base = make(net)
    images = [torch.rand(3, 3, 16, 16) for _ in range(64)]
    alone = [features(base, image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: features(base, image), images))
    assert all(torch.equal(a.encoding, b.encoding) for a, b in zip(alone, together, strict=True))
    assert all(torch.equal(a.taps[1], b.taps[1]) for a, b in zip(alone, together, strict=True))


def test_random_weights_are_others_and_constants_stay(net: Net) -> None:
    net.scale = nn.Parameter(torch.full((3,), 0.1))
    given, drawn = make(net).network, make(net, weights="none").network
    assert not torch.equal(given.first.weight, drawn.first.weight)
    assert torch.equal(given.scale, drawn.scale)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda: nn.DataParallel(Net()), {}, "DataParallel: pass the network inside of it, network.module"),
        (lambda: torch.compile(Net()), {}, "OptimizedModule: pass the network before torch.compile"),
        (lambda: torch.jit.script(nn.Sequential(nn.ReLU())), {}, "TorchScript"),
        (lambda: quantize_dynamic(nn.Sequential(nn.Linear(4, 4))), {}, "Sequential is quantised .Linear"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), {}, "2 parameters of Sequential are not initialised"),
        (lambda: Net().to("meta"), {}, "on the meta device"),
        (lambda: nn.Conv2d(1, 4, 3), {}, r"does not accept an input of shape \(3, 16, 16\).*expected input"),
        (lambda: Returns(lambda maps: "text"), {}, "the output is a str without a tensor"),
        (lambda: Returns(lambda maps: maps.mean()), {}, r"is a tensor \(\) for 2 examples"),
        (Net, {"encoding": "secnd"}, "no submodule 'secnd' .*it has first, second"),
        (Net, {"taps": ("third",)}, "no submodule 'third'"),
        (Net, {"input": "depth"}, "input 'depth' .*the env has image"),
        (Net, {"mean": (0.5,)}, "belong together"),
        (Net, {"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "2 values of --base.mean for 3 channels"),
    ],
)
def test_what_is_no_base_is_said(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((FitError, OptionError), match=message):
        make(network(), **options)


def test_without_a_network_the_call_is_shown() -> None:
    with pytest.raises(OptionError, match=r"sidetune_core.run\(base=network"):
        Module(Module.Config(), IMAGE)


class Wrapped(Module):  # type: ignore[misc,valid-type]
    """The wrapper of a network that takes images of any size."""

    def __init__(self, config: Any, inputs: Any) -> None:
        super().__init__(config, inputs, Net())


def test_the_wrapper_passes_the_conformance_kit() -> None:
    from sidetune_core.testing import check_plugin

    findings = check_plugin("base", f"{__name__}:Wrapped")
    assert [finding for finding in findings if not finding.passed] == []
    assert sum(not finding.skipped for finding in findings) > 20


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv(maps).relu()


class Deep(nn.Module):
    """Three residual blocks after a stem; `when` gives the blocks that are computed for the stem's output."""

    def __init__(self, when: Any = lambda maps: 3) -> None:
        super().__init__()
        self.stem, self.when = nn.Conv2d(3, 4, 3, 2, 1), when
        self.layers = nn.ModuleList(Residual(4) for _ in range(3))

    def forward(self, image: Tensor, scale: Tensor | None = None) -> Tensor:
        maps = self.stem(image)
        if scale is not None:
            maps = maps * scale
        for layer in self.layers[: self.when(maps)]:
            maps = layer(maps)
        return maps.mean((2, 3))


def test_what_follows_a_tap_is_cut_out_of_the_network(net: Net, image: Tensor) -> None:
    base = make(net, taps=("first", "relu"))
    output = features(base, image)
    for tap, activation in enumerate(output.taps):
        continuation = base.continued(tap)
        with torch.no_grad():
            assert torch.equal(continuation(activation, {}), output.encoding)
        restored = pickle.loads(pickle.dumps(copy.deepcopy(continuation)))
        assert torch.equal(restored(activation, {}), continuation(activation, {}))
    assert [name for name, _ in base.continued(0).named_parameters()] == [
        "network.second.weight",
        "network.second.bias",
    ]


def test_residual_blocks_of_a_network_can_be_left_out(image: Tensor) -> None:
    base = make(Deep(), taps=("stem",))
    assert [(block.name, block.after, block.optional) for block in base.blocks()] == [
        (f"network.layers.{index}", 0, True) for index in range(3)
    ]
    continuation = base.continued(0, [1])
    tap = features(base, image).taps[0]
    with torch.no_grad():
        assert torch.equal(continuation(tap, {}), base.network.layers[1](tap).mean((2, 3)))
    assert len(list(continuation.parameters())) == 2


def test_a_network_that_decides_by_values_cannot_be_traced() -> None:
    base = make(Deep(lambda maps: 3 if maps.sum() > 0 else 2), taps=("stem",))
    assert base.blocks() == ()
    with pytest.raises(FitError, match="torch.fx cannot trace it .*control flow"):
        base.continued(0)


def test_a_tap_that_a_shortcut_goes_around_lists_the_others(image: Tensor) -> None:
    base = make(Deep(), taps=("stem", "layers.0.conv", "layers.1"))
    with pytest.raises(FitError, match="more than that; taps that work: 0, 2; name other submodules"):
        base.continued(1)
