"""The CIFAR ResNets: sizes, shapes, the published weights, and messages about unusable weights."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, FitError, WeightsError
from sidetune_core.config.kinds import BASE
from sidetune_core.config.registry import find, load
from sidetune_core.storage.weights import write_tensors

IMAGE = {"image": (3, 32, 32)}


def make(
    name: str = "resnet20", weights: str | Path = "none", inputs: dict[str, tuple[int, ...]] | None = None
) -> Base:
    cls = load(find(BASE, name))
    base: Base = cls(cls.Config(weights=str(weights)), IMAGE if inputs is None else inputs)
    return base.eval()


def count_elements(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


# The published counts are 658,586 and 269,722, with a linear layer of 650.
@pytest.mark.parametrize(("name", "count"), [("resnet20", 269_722 - 650), ("resnet44", 657_936)])
def test_the_number_of_parameters_is_the_published_one(name: str, count: int) -> None:
    assert count_elements(make(name).parameters()) == count


@pytest.mark.parametrize(("name", "count"), [("resnet20", 1_395), ("resnet44", 3_211)])
def test_the_number_of_saved_buffers_is_the_published_one(name: str, count: int) -> None:
    base = make(name)
    assert count_elements(base.state_dict().values()) - count_elements(base.parameters()) == count


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet20", 20), ("resnet32", 32), ("resnet44", 44), ("resnet56", 56)]
)
def test_the_depth_counts_convolutions_and_the_linear_layer_that_is_left_out(name: str, depth: int) -> None:
    assert sum(isinstance(module, nn.Conv2d) for module in make(name).modules()) == depth - 1


@pytest.mark.parametrize("size", [(32, 32), (30, 34), (9, 8), (33, 47)])
def test_encoding_and_taps_have_the_declared_shapes_at_any_size(size: tuple[int, int]) -> None:
    base = make(inputs={"image": (3, *size)})
    features = base({"image": torch.rand(2, 3, *size)})
    assert features.encoding.shape == (2, *base.shape)
    assert [tuple(tap.shape[1:]) for tap in features.taps] == [tuple(shape) for shape in base.tap_shapes]


def test_taps_end_with_the_map_whose_mean_is_the_encoding() -> None:
    features = make()({"image": torch.rand(2, 3, 32, 32)})
    torch.testing.assert_close(features.taps[-1].mean((2, 3)), features.encoding)


def test_a_shortcut_subsamples_and_pads_the_channels_on_both_sides() -> None:
    base = make()
    first_of_stage: Any = base.get_submodule("layer2.0")
    nn.init.zeros_(first_of_stage.bn2.weight)  # nothing is left of the residual
    nn.init.zeros_(first_of_stage.bn2.bias)
    x = torch.rand(2, 16, 8, 8)
    out = first_of_stage(x)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(out, expected)


def test_a_shortcut_of_equal_shape_is_the_identity() -> None:
    block: Any = make().get_submodule("layer1.0")
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_a_frozen_base_computes_what_the_trainable_one_computes(shared_data: Path) -> None:
    base = make("resnet44", shared_data / "weights" / "resnet44-cifar.pth").double()
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    trainable = base({"image": image})
    frozen = base.requires_grad_(False)({"image": image})
    torch.testing.assert_close(frozen.encoding, trainable.encoding)
    torch.testing.assert_close(frozen.taps, trainable.taps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_relu_within_a_convolution_changes_no_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make().requires_grad_(False).to(memory_format=torch.channels_last)
    image = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = {"image": image.contiguous(memory_format=torch.channels_last)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        within = base(inputs)
        monkeypatch.setattr(sys.modules[type(base).__module__], "_can_apply_relu", lambda x: False)
        after = base(inputs)
    assert torch.equal(within.encoding, after.encoding)
    assert within.encoding.dtype == dtype
    assert all(map(torch.equal, within.taps, after.taps))
    assert [tap.stride() for tap in within.taps] == [tap.stride() for tap in after.taps]


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.1.bn2.weight", "layer3.2.conv2.weight"])
def test_a_single_trainable_weight_has_the_gradient_of_the_whole_network(name: str) -> None:
    base, image = make().double(), torch.rand(2, 3, 8, 8).double()
    base({"image": image}).encoding.square().sum().backward()
    weight = base.get_parameter(name)
    expected = weight.grad
    base.zero_grad()
    base.requires_grad_(False)
    weight.requires_grad_(True)
    base({"image": image}).encoding.square().sum().backward()
    torch.testing.assert_close(weight.grad, expected)


HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("name", ["conv1", "bn1", "layer2.0.conv2", "layer3.1.bn1"])
@pytest.mark.parametrize("register", HOOKS)
def test_a_hook_on_a_frozen_layer_is_called(register: str, name: str) -> None:
    base = make().requires_grad_(False)
    calls: list[str] = []
    getattr(base.get_submodule(name), register)(lambda *_: calls.append(name))
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    base({"image": image}).encoding.sum().backward()
    assert calls == [name]


def test_a_hook_on_all_modules_is_called_for_frozen_layers() -> None:
    base = make().requires_grad_(False)
    calls: list[nn.Module] = []
    with nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(module)):
        base({"image": torch.rand(2, 3, 8, 8)})
    assert set(calls) == set(base.modules())


def test_a_hook_that_does_nothing_changes_no_output() -> None:
    base, image = make().double().requires_grad_(False), {"image": torch.rand(2, 3, 8, 8).double()}
    folded = base(image)
    for module in base.modules():
        module.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(base(image), folded)


def test_an_adapter_added_by_a_hook_has_a_gradient() -> None:
    base: Any = make().requires_grad_(False)
    adapter = nn.Conv2d(16, 16, 1)
    base.layer1[0].conv1.register_forward_hook(lambda _, args, out: out + adapter(args[0]))
    base({"image": torch.rand(2, 3, 8, 8)}).encoding.sum().backward()
    assert adapter.weight.grad is not None


def test_an_output_that_a_hook_keeps_is_not_changed_in_place() -> None:
    base: Any = make().requires_grad_(False)
    kept: list[Tensor] = []
    base.bn1.register_forward_hook(lambda _, __, out: kept.append(out))
    base({"image": torch.rand(2, 3, 8, 8)})
    assert (kept[0] < 0).any()


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def add_bias(base: Any) -> None:
    base.conv1.bias = nn.Parameter(torch.ones(16))


def dilate(base: Any) -> None:
    base.conv1.dilation, base.conv1.padding = (2, 2), (2, 2)


def pad_by_reflection(base: Any) -> None:
    base.conv1 = nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect", bias=False)


def parametrise(base: Any) -> None:
    nn.utils.parametrize.register_parametrization(base.conv1, "weight", Halved())


def drop_affine(base: Any) -> None:
    base.bn1 = nn.BatchNorm2d(16, affine=False)


def replace_forward(base: Any) -> None:
    base.conv1.forward = lambda x: x.repeat(1, 6, 1, 1)[:, :16]


@pytest.mark.parametrize(
    "change", [add_bias, dilate, pad_by_reflection, parametrise, drop_affine, replace_forward]
)
def test_a_changed_layer_computes_when_frozen_what_it_computes_when_called(change: Any) -> None:
    base: Any = make()
    change(base)
    base.eval().requires_grad_(False)
    image = torch.rand(2, 3, 8, 8)
    called = functional.relu(base.bn1(base.conv1((image - base.mean) / base.std)))
    torch.testing.assert_close(base({"image": image}).taps[0], called)


def test_the_image_is_normalised_with_the_statistics_of_imagenet() -> None:
    base: Any = make()
    seen: list[Tensor] = []
    base.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    base(
        {
            "image": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
            + torch.tensor([0.229, 0.0, 0.45]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        }
    )
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([1.0, 0.0, 2.0]))


@pytest.mark.parametrize(
    "inputs", [{}, {"tokens": (3, 32, 32)}, {"image": (1, 32, 32)}, {"image": (3, 32)}, {"image": (3, 7, 32)}]
)
def test_inputs_that_are_no_colour_image_do_not_fit(inputs: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(FitError, match=r"base 'resnet20' needs an input 'image' of shape \(3, H, W\)"):
        make(inputs=inputs)


def test_the_published_file_fills_every_weight_with_every_key_used(shared_data: Path) -> None:
    file = shared_data / "weights" / "resnet44-cifar.pth"
    content = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    base = make("resnet44", file)
    own = {key: value for key, value in base.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {f"module.{key}" for key in own} == set(content)
    assert all(torch.equal(value, content[f"module.{key}"]) for key, value in own.items())


def test_weights_authors_are_the_published_file(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet44-cifar.pth").symlink_to(
        (shared_data / "weights" / "resnet44-cifar.pth").resolve()
    )
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path))
    ours = make("resnet44", "authors").state_dict()
    direct = make("resnet44", shared_data / "weights" / "resnet44-cifar.pth").state_dict()
    assert all(torch.equal(ours[key], direct[key]) for key in ours)


def test_the_forward_pass_equals_one_written_straight_from_the_tensors_of_the_published_file(
    shared_data: Path,
) -> None:
    file = shared_data / "weights" / "resnet44-cifar.pth"
    content = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    tensors = {key.removeprefix("module."): value.double() for key, value in content.items()}
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    features = make("resnet44", file).double()({"image": image})
    expected = by_hand(tensors, image)
    torch.testing.assert_close(features.encoding, expected[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)
    for tap, map in zip(features.taps, expected, strict=True):
        torch.testing.assert_close(tap, map, rtol=1e-6, atol=1e-6)


def by_hand(tensors: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The maps after the stem and the three stages of a ResNet-44, out of its published tensors."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{key}"].view(-1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    x = norm(functional.conv2d((image - mean) / std, tensors["conv1.weight"], padding=1), "bn1").clamp(min=0)
    maps = [x]
    for stage, block in itertools.product((1, 2, 3), range(7)):
        name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        inner = norm(
            functional.conv2d(x, tensors[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"
        ).clamp(min=0)
        inner = norm(functional.conv2d(inner, tensors[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if stride == 2:
            zeros = torch.zeros_like(inner[:, : x.shape[1] // 2])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
        x = (x + inner).clamp(min=0)
        if block == 6:
            maps.append(x)
    return maps


def test_weights_of_another_depth_are_refused_with_the_keys_that_are_missing(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.safetensors", make("resnet20").state_dict())
    with pytest.raises(
        WeightsError, match=r"state_dict mismatch in .*: missing keys layer1\.3\.bn1\.bias.* more$"
    ) as caught:
        make("resnet44", tmp_path / "w.safetensors")
    assert str(tmp_path / "w.safetensors") in str(caught.value)


def test_weights_of_another_width_are_refused_with_both_shapes(tmp_path: Path) -> None:
    tensors = make("resnet20").state_dict()
    tensors["conv1.weight"] = torch.zeros(8, 3, 3, 3)
    write_tensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"conv1\.weight \(8, 3, 3, 3\) in the file, \(16, 3, 3, 3\)"):
        make("resnet20", tmp_path / "w.safetensors")


def test_weights_with_a_linear_layer_are_refused_with_its_name(tmp_path: Path) -> None:
    tensors = make("resnet20").state_dict() | {"linear.weight": torch.zeros(10, 64)}
    torch.save({"state_dict": tensors}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"unexpected keys linear\.weight"):
        make("resnet20", tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file at .*absent\.pth"):
        make(weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    tensors = make().state_dict()
    if path.suffix == ".pth":
        torch.save(tensors, path, _use_new_zipfile_serialization=name != "old.pth")
    else:
        write_tensors(path, tensors)
    whole = path.read_bytes()
    for length in (0, 10, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=rf"cannot read weights from .*{name}"):
            make(weights=path)


class Touch:
    """Unpickled, it makes a file: code of somebody else that must not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_weights_next_to_objects_are_read_and_no_code_of_the_file_runs(
    new_format: bool, tmp_path: Path
) -> None:
    weights = make().state_dict()
    content = {"state_dict": weights, "model": Touch(tmp_path / "ran")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    read = make(weights=tmp_path / "w.pth").state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
    assert not (tmp_path / "ran").exists()


def test_packaged_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(
        WeightsError,
        match=r"base 'resnet20' has no packaged weights; choose 'none' \(random weights\) or the path",
    ):
        make("resnet20", "packaged")


def test_weights_that_the_authors_did_not_publish_are_refused() -> None:
    with pytest.raises(WeightsError, match="published no weights of base 'resnet20'"):
        make("resnet20", "authors")


def test_the_encoding_of_an_example_does_not_depend_on_its_batch() -> None:
    base = make().double()
    image = torch.rand(4, 3, 32, 32).double()
    alone = torch.cat([base({"image": example[None]}).encoding for example in image])
    torch.testing.assert_close(base({"image": image}).encoding, alone)


class Doubled(nn.Conv2d):
    """A replacement of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_that_was_replaced_is_called_in_a_frozen_network_too() -> None:
    base = make()
    base.requires_grad_(False).eval()
    image = {"image": torch.rand(2, 3, 32, 32)}
    before = base(image).taps[0]
    doubled = Doubled(3, 16, 3, padding=1, bias=False).requires_grad_(False)
    doubled.load_state_dict(base.conv1.state_dict())
    base.conv1 = doubled
    assert not torch.allclose(base(image).taps[0], before)


def continuable(name: str = "resnet44", weights: str = "none") -> Any:
    return make(name, weights).requires_grad_(False)


def test_what_follows_stage_2_is_a_copy_of_stage_3() -> None:
    base = continuable()
    counted = count_elements(base.layer3.parameters())
    assert counted == 499_456
    assert count_elements(base.continued(2).parameters()) == counted


def test_half_of_the_blocks_of_stage_3_are_those_blocks_one_after_the_other() -> None:
    base = continuable(weights="packaged")
    tap = torch.rand(2, 32, 16, 16)
    expected = tap
    with torch.no_grad():
        for number in (0, 2, 4, 6):
            expected = base.layer3[number](expected)
        continuation = base.continued(2, [14, 16, 18, 20]).eval()
        assert torch.equal(continuation(tap, {}), expected.mean((2, 3)))
    assert (
        count_elements(continuation.parameters()) == 278_154 - 650
    )  # without the linear layer of 10 classes


def test_blocks_are_numbered_through_the_whole_network() -> None:
    blocks = continuable().blocks()
    assert [block.name for block in blocks[13:15]] == ["layer2.6", "layer3.0"]
    assert [block.after for block in blocks] == [0] * 7 + [1] * 7 + [2] * 7
    assert [number for number, block in enumerate(blocks) if not block.optional] == [7, 14]


@pytest.mark.parametrize(
    ("tap", "keep", "message"),
    [
        (4, None, "the base has no tap 4; its taps are 0 to 3"),
        (2, [13, 14], "block 13 is not after tap 2 of the base; these are 14 to 20"),
        (1, [8, 15], "blocks 7, 14 are needed .layer2.0, layer3.0.: .* keep 7, 14 too"),
    ],
)
def test_an_impossible_choice_of_blocks_names_the_possible_ones(
    tap: int, keep: list[int] | None, message: str
) -> None:
    with pytest.raises(FitError, match=message):
        continuable().continued(tap, keep)
