"""The Taskonomy encoder: a ResNet-50 whose encoding is a small map."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

import attrs
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Base,
    Block,
    Features,
    FitError,
    ImageInput,
    InputShapes,
    OptionError,
    Published,
    Renamed,
    at_least,
    load_weights,
    option,
)

from ._continuation import Stages, as_trainable, left_out, stage_blocks

BLOCKS = (3, 4, 6, 3)
STRIDES = (2, 2, 1, 1)
CHANNELS = 8
MIN_SIZE = 32
"""Smallest height and width of an image, in pixels."""
BANK_SIZE = 256
"""Height and width of the images that the bank was trained on, in pixels."""
BANK = {
    "autoencoding": "e35146c09253720e97c0a7f8ee4e896ac931f5faa1449df003d81e6089ac6307",
    "class_object": "4a4e42dad58066039a0d2f9d128bb32e93a7e4aa52edb2d2a07bcdd1a6536c18",
    "class_scene": "ad85764467cddafd98211313ceddebb98adf2a6bee2cedfe0b922a37ae65eaf8",
    "colorization": "5ed817acdd28d13e443d98ad15ebe1c3059a3252396a2dff6a2090f6f86616a5",
    "curvature": "3767cf5d06d9c6bca859631eb5a3c368d66abeb15542171b94188ffbe47d7571",
    "denoising": "b64cab95af4a2c565066a7e8effaf37d6586c3b9389b47fff9376478d849db38",
    "depth_euclidean": "88f18d41313de7dbc88314a7f0feec3023047303d94d73eb8622dc40334ef149",
    "depth_zbuffer": "cc343a8ed622fd7ee3ce54398be8682bbbbfb5d11fa80e8d03a56a5ae4e11b09",
    "edge_occlusion": "5ac3f3e918131f61e01fe95e49f462ae2fc56aa463f8d353ca84cd4e248b9c08",
    "edge_texture": "be2d686a6a4dfebe968d16146a17176eba37e29f736d5cd9a714317c93718810",
    "inpainting": "bf96fbaaea9268a820a19a1d13dbf6af31798f8983c6d9203c00fab2d236a142",
    "keypoints2d": "6b77695acff4c84091c484a7b128a1e28a7e9c36243eda278598f582cf667fe0",
    "keypoints3d": "7e3f1ec97b82ae30030b7ea4fec2dc606b71497d8c0335d05f0be3dc909d000d",
    "normal": "f5e2c7737e4948e3b2a822f584892c342eaabbe66661576ba50db7cdd40561c5",
    "reshading": "de456246e171dc8407fb2951539aa60d75925ae0f1dbb43f110b7768398b36a6",
    "room_layout": "1e1662f43b834261464b1825227a04efba59b50cc8883bee9adc3ddafd4796c1",
    "segment_semantic": "bb3007244520fc89cd111e099744a22b1e5c98cd83ed3f116fbff6376d220127",
    "segment_unsup25d": "7d12d2500c18c003ffc23943214f5dfd74932f0e3d03dde2c3a81ebc406e31a0",
    "segment_unsup2d": "b679053a920e8bcabf0cd454606098ae85341e054080f2be29473971d4265964",
    "vanishing_point": "afd2ae9b71d46a54efc5231b3e38ebc3e35bfab78cb0a78d9b75863a240b19a8",
}
"""SHA-256 of the published encoders with one input image, by domain; the file names contain it."""
BANK_URL = "https://github.com/alexsax/visual-prior/raw/networks/assets/pytorch/"
"""The source of the authors' package visualpriors. This project has not downloaded the files itself; each
download is checked by its hash."""


class Taskonomy(Base):
    """The encoder of Zamir et al. (Taskonomy, CVPR 2018); 23,655,504 parameters.

    ``image`` (B, 3, H, W) in [0, 1], scaled to [-1, 1] inside, to (B, 8, H/16, W/16): 256 x 256 pixels to
    (8, 16, 16); H and W need not be multiples of 16. A ResNet-50 that downsamples four times instead of
    five: 7 x 7 convolution and pooling, then stages of 3, 4, 6 and 3 bottlenecks. Unlike in torchvision's,
    the stride 2 of the first two stages is in their last block, whose shortcut drops every other position. A
    final 3 x 3 convolution with BatchNorm and ReLU reduces 2,048 channels to 8. Taps: the outputs of the
    stages, (256, H/8, W/8), (512, H/16, W/16), (1024, H/16, W/16) and (2048, H/16, W/16). The state dict has
    the keys of the published bank.

    Raises:
        FitError: the env has no ``image`` (3, H, W) of at least 32 x 32 pixels.
        OptionError: the bank has no encoder of that `domain`.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the Taskonomy encoder."""

        weights: str = option(
            "none",
            "'packaged' (trained on rendered rooms by this project, width 10), 'authors' (the published "
            "encoder of "
            "'domain', width 64), 'none' (random), or a .safetensors, .pth or .dat file",
        )
        domain: str = option(
            "curvature",
            "domain of the published encoder with weights 'authors', such as curvature, normal or denoising",
        )
        width: int = option(
            64, "channels of the first layer, 64 in the bank; later layers scale with it", at_least(1)
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {"weights": Renamed("weights", {"seed": "authors"})}

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"base 'taskonomy' needs an input 'image' of shape (3, H, W), H and W at least {MIN_SIZE}; "
                f"got {dict(inputs)}"
            )
        if config.domain not in BANK:
            raise OptionError(
                f"the Taskonomy bank has no encoder of '{config.domain}' (--base.domain); "
                f"choose from {', '.join(BANK)}"
            )
        self.conv1 = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        widths = [config.width * 2**stage for stage in range(4)]
        channels = [config.width, *(4 * width for width in widths)]
        stages = [_stage(*sizes) for sizes in zip(channels[:-1], widths, BLOCKS, STRIDES, strict=True)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.compress1 = nn.Conv2d(channels[-1], CHANNELS, 3, padding=1, bias=False)
        self.compress_bn = nn.BatchNorm2d(CHANNELS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        eighth = tuple(_halved(_halved(length) // 2) for length in shape[1:])
        sixteenth = tuple(map(_halved, eighth))
        self.shape = (CHANNELS, *sixteenth)
        sizes = (eighth, sixteenth, sixteenth, sixteenth)
        self.tap_shapes = tuple((4 * width, *size) for width, size in zip(widths, sizes, strict=True))
        file = f"{config.domain}_encoder-{BANK[config.domain]}.pth"
        load_weights(
            self,
            config.weights,
            owner="base 'taskonomy'",
            packaged=Path(__file__).parent / "weights" / "taskonomy-rooms.safetensors",
            published=Published(file, BANK_URL + file, BANK[config.domain], holds_objects=True),
        )

    @classmethod
    def image_input(cls, config: Config) -> ImageInput | None:
        """The images of the bank; those of the packaged weights have several sizes."""
        return None if config.weights == "packaged" else ImageInput(BANK_SIZE)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 8, H/16, W/16) of ``image`` and the four taps."""
        x = functional.relu(self.bn1(self.conv1(2 * inputs["image"] - 1)), inplace=True)
        x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
        taps = []
        for stage in self._stages().values():
            x = stage(x)
            taps.append(x)
        return Features(functional.relu(self.compress_bn(self.compress1(x))), tuple(taps))

    def blocks(self) -> tuple[Block, ...]:
        """The bottlenecks of the four stages; those with a stride or a convolution in their shortcut change
        the shape."""
        return stage_blocks(
            self._stages(), -1, lambda block: isinstance(block, _Bottleneck) and block.keeps_shape
        )

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _AfterTap:
        """See `Continuable`."""
        parts = left_out(self, self.blocks(), tap, keep)
        return as_trainable(_AfterTap(self._stages(), parts, self.compress1, self.compress_bn), self)

    def _stages(self) -> dict[str, nn.Sequential]:
        return {"layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3, "layer4": self.layer4}


class _AfterTap(Stages):
    """Bottlenecks and the last convolution; a tap (B, C, h, w) to the encoding (B, 8, H/16, W/16)."""

    def __init__(
        self,
        stages: Mapping[str, nn.Sequential],
        parts: Collection[nn.Module],
        compress1: nn.Conv2d,
        compress_bn: nn.BatchNorm2d,
    ) -> None:
        super().__init__(stages, parts)
        self.compress1, self.compress_bn = copy.deepcopy(compress1), copy.deepcopy(compress_bn)

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return functional.relu(self.compress_bn(self.compress1(self.run(tap))))


class _Bottleneck(nn.Module):
    """Residual block of 1 x 1, 3 x 3 and 1 x 1 convolutions with BatchNorm.

    (B, c_in, H, W) to (B, 4 width, H / stride, W / stride).
    """

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * width
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape."""
        return self.stride == 1 and self.downsample is None

    def forward(self, x: Tensor) -> Tensor:
        residual = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = functional.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        if self.downsample is not None:
            x = self.downsample(x)
        return functional.relu(residual + x[:, :, :: self.stride, :: self.stride], inplace=True)


def _halved(length: int) -> int:
    return (length + 1) // 2


def _stage(c_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Bottlenecks, the last of which has the stride."""
    channels = [c_in, *[4 * width] * (blocks - 1)]
    strides = [*[1] * (blocks - 1), stride]
    return nn.Sequential(*(_Bottleneck(c, width, s) for c, s in zip(channels, strides, strict=True)))
