"""CIFAR ResNets (He et al., CVPR 2016, section 4.2) without their final linear layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooked

from sidetune_core.api import (
    Base,
    Block,
    Features,
    FitError,
    ImageInput,
    InputShapes,
    Published,
    Renamed,
    load_weights,
    option,
    register_image_stats,
)

from ._continuation import Stages, as_trainable, left_out, stage_blocks

WIDTHS = (16, 32, 64)
MIN_SIZE = 8
"""Smallest height and width of an image, in pixels."""
SIZE = 32
"""Height and width of the images of CIFAR, in pixels."""
MIN_ONEDNN_VALUES = 20_480
"""Values of an input from which on PyTorch convolves by oneDNN in any case; below, in float32, not always."""
WEIGHTS = Path(__file__).parent / "weights"


class CifarResNet(Base):
    """A ResNet of depth 6n + 2: three stages of n blocks, widths 16, 32, 64, strides 1, 2, 2.

    Shortcuts are of option A (no parameters). Input ``image`` (B, 3, H, W) in [0, 1], normalised inside with
    ImageNet's mean and standard deviation as in the original code; designed for 32 x 32 pixels, any size
    from 8 x 8 works. Encoding (B, 64), the global average pool. Taps: the outputs of the stem, (16, H, W),
    and of the stages, (16, H, W), (32, H/2, W/2), (64, H/4, W/4).

    Raises:
        FitError: the env has no ``image`` (3, H, W) of at least 8 x 8 pixels.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of every CIFAR ResNet."""

        weights: str = option(
            "packaged",
            "'packaged' (trained on CIFAR-10 by this project), 'authors' (the file that the paper's authors "
            "published), 'none' (random), or a .safetensors or .pth file",
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {"weights": Renamed("weights", {"seed": "authors"})}

    depth: ClassVar[int]
    published: ClassVar[Published | None] = None
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"base 'resnet{self.depth}' needs an input 'image' of shape (3, H, W), H and W at least "
                f"{MIN_SIZE}; got {dict(inputs)}"
            )
        register_image_stats(self)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        blocks = (self.depth - 2) // 6
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        height, width = shape[1:]
        half, quarter = ((height + 1) // 2, (width + 1) // 2), ((height + 3) // 4, (width + 3) // 4)
        self.shape = (WIDTHS[2],)
        self.tap_shapes = ((16, height, width), (16, height, width), (32, *half), (64, *quarter))
        load_weights(
            self,
            config.weights,
            owner=f"base 'resnet{self.depth}'",
            packaged=WEIGHTS / f"resnet{self.depth}-cifar10.safetensors",
            published=self.published,
            prefix="module.",
        )

    @classmethod
    def image_input(cls, config: Config) -> ImageInput:
        """The images of CIFAR."""
        return ImageInput(SIZE)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 64) of ``image`` and the four taps."""
        image = (inputs["image"] - self.mean) / self.std
        stem = _convolve_relu(self.conv1, self.bn1, image)
        first = self.layer1(stem)
        second = self.layer2(first)
        third = self.layer3(second)
        return Features(third.mean((2, 3)), (stem, first, second, third))

    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks of the three stages, n in each; the second and third stage's first block
        changes the shape."""
        return stage_blocks(self._stages(), 0, lambda block: isinstance(block, _Block) and block.keeps_shape)

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _AfterTap:
        """See `Continuable`."""
        parts = left_out(self, self.blocks(), tap, keep)
        return as_trainable(_AfterTap(self._stages(), parts), self)

    def _stages(self) -> dict[str, nn.Sequential]:
        return {"layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3}


class _AfterTap(Stages):
    """Residual blocks and the global average pool; a tap (B, c, h, w) to the encoding (B, 64)."""

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.run(tap).mean((2, 3))


class ResNet20(CifarResNet):
    """CIFAR ResNet of depth 20."""

    depth = 20


class ResNet32(CifarResNet):
    """CIFAR ResNet of depth 32."""

    depth = 32


class ResNet44(CifarResNet):
    """CIFAR ResNet of depth 44 (657,936 parameters), the base of the original iCIFAR experiments.

    It comes with weights trained on CIFAR-10.
    """

    depth = 44
    published = Published(
        "resnet44-cifar.pth",
        "https://github.com/jozhang97/side-tuning/raw/master/assets/pytorch/resnet44-cifar.pth",
        "3dca3cca49d86391048a53057580f9bbe1a62054f29eed9a184838e01e8cde1e",
    )


class ResNet56(CifarResNet):
    """CIFAR ResNet of depth 56."""

    depth = 56


class _Block(nn.Module):
    """Residual block conv-BN-ReLU-conv-BN; (B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride = stride
        self.padding = (c_out - c_in) // 2

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape."""
        return self.stride == 1 and not self.padding

    def forward(self, x: Tensor) -> Tensor:
        hidden = _convolve_relu(self.conv1, self.bn1, x)
        residual = _convolve(self.conv2, self.bn2, hidden)
        if not self.keeps_shape:  # option A: subsample, and pad the channels with zeros on both sides
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(residual.add_(x), inplace=True)


def _convolve(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))`` in memory of its own; where both are frozen, one convolution with the norm folded
    into its weights.

    Folding saves a pass over each map, and its own cost is negligible. Layers that a learner has changed
    are called as usual: other classes, such as layers with adapters or parametrised weights, and layers with
    hooks.
    """
    if not (_is_foldable_conv(conv) and _is_foldable_norm(norm)):
        normed: Tensor = norm(conv(x))
        plain = type(norm) is nn.BatchNorm2d and _is_unchanged(norm)
        return normed if plain else normed.clone()  # a hook may keep what the caller changes in place
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return functional.conv2d(
        x,
        *_fold(conv, norm),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )


def _convolve_relu(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``relu(norm(conv(x)))`` with the bits of `_convolve`; where both are frozen, oneDNN applies the ReLU to
    what it writes if it can, which saves a pass over the map.
    """
    if not (_is_foldable_conv(conv) and _is_foldable_norm(norm) and _can_apply_relu(x)):
        return functional.relu(_convolve(conv, norm, x), inplace=True)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    weight, bias = _fold(conv, norm)
    if torch.is_autocast_enabled("cpu"):  # which does not know the operator
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "relu", [], "")
    return output


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The weight and the bias of a convolution that also applies the norm."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def _can_apply_relu(x: Tensor) -> bool:
    """Whether PyTorch convolves `x` by oneDNN, so that its operator with a ReLU computes the same bits.

    The operator is that of PyTorch's compiler; it has no gradient, and other programs cannot read it.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > MIN_ONEDNN_VALUES
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _is_foldable_conv(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and _is_unchanged(conv)
        and not (torch.is_grad_enabled() and conv.weight.requires_grad)
    )


def _is_foldable_norm(norm: nn.Module) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and not norm.training
        and _is_unchanged(norm)
        and not (torch.is_grad_enabled() and norm.weight.requires_grad)
    )


def _is_unchanged(module: nn.Module) -> bool:
    """Whether calling a module runs nothing but the `forward` of its class."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        hooked._global_forward_hooks,
        hooked._global_forward_pre_hooks,
        hooked._global_backward_hooks,
        hooked._global_backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(module)


def _stage(c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(c_in, c_out, stride)
    return nn.Sequential(first, *(_Block(c_out, c_out, stride=1) for _ in range(blocks - 1)))
