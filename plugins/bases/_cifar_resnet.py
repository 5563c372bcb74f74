"""The residual networks for 32 x 32 images of He et al. (2016, section 4.2), without their final linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, Features, FitError, InputShapes, Published, load_weights, option

WIDTHS = (16, 32, 64)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WEIGHTS = Path(__file__).parent / "weights"


class CifarResNet(Base):
    """A ResNet of depth 6n + 2: three stages of n blocks, widths 16, 32, 64, strides 1, 2, 2, option-A shortcuts (no parameters).

    Input ``image`` (B, 3, H, W) in [0, 1], standardised inside with ImageNet's mean and deviation as the original does; H and W are
    32 by design, and any size of 8 or more works. Encoding (B, 64), the global average pool. Taps: after the stem (16, H, W) and after
    each stage, (16, H, W), (32, H/2, W/2), (64, H/4, W/4).

    Raises:
        FitError: the env gives no ``image`` of three channels.
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of every CIFAR ResNet."""

        weights: str = option(
            "packaged",
            "'packaged' (ours, CIFAR-10), 'seed' (the original authors' file), 'none' (random), or a .safetensors or .pth file",
        )

    depth: ClassVar[int]
    published: ClassVar[Published | None] = None
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < 8:
            raise FitError(
                f"base 'resnet{self.depth}' needs an input 'image' of shape (3, H, W), H and W at least 8; got {dict(inputs)}"
            )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
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

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 64) of ``image`` and the four taps."""
        stem = functional.relu(
            _convolve(self.conv1, self.bn1, (inputs["image"] - self.mean) / self.std), inplace=True
        )
        first = self.layer1(stem)
        second = self.layer2(first)
        third = self.layer3(second)
        return Features(third.mean((2, 3)), (stem, first, second, third))


class _Block(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the input; (B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride = stride
        self.widen = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        residual = _convolve(
            self.conv2, self.bn2, functional.relu(_convolve(self.conv1, self.bn1, x), inplace=True)
        )
        if (
            self.stride > 1 or self.widen
        ):  # option A: subsample, and pad the channels with zeros on both sides
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widen, self.widen))
        return functional.relu(residual.add_(x), inplace=True)


def _convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``norm(conv(x))``, as one convolution where both are frozen: the norm is then a scale and a shift, folded into the weights.

    That spares a pass over each map; folding anew for each batch costs nothing beside it. Layers that somebody has put others in the
    place of, such as ones with adapters, are called as they are. Hooks on folded layers are not called.
    """
    plain = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d
    learning = torch.is_grad_enabled() and (conv.weight.requires_grad or norm.weight.requires_grad)
    if not plain or norm.training or learning or norm.running_mean is None or norm.running_var is None:
        normed: Tensor = norm(conv(x))
        return normed
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return functional.conv2d(
        x,
        conv.weight * scale.view(-1, 1, 1, 1),
        norm.bias - norm.running_mean * scale,
        stride=conv.stride,
        padding=conv.padding,
    )


def _stage(c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *(_Block(c_in if k == 0 else c_out, c_out, stride if k == 0 else 1) for k in range(blocks))
    )
