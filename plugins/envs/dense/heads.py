"""Heads of dense tasks: from a feature map to an image or to class logits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError, Shape

WIDTH = 1024
"""Channels of the widest layers of the original decoder."""
MIN_CHANNELS = 8
"""Lower bound on the channels of a layer: with 2 in the last layers, training on 2-D keypoints got stuck."""


class Transfer(nn.Module):
    """Residual block of two 3 x 3 convolutions with ReLU, (B, C, H, W) to the same shape; 1,168 parameters at
    C = 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return encoding + functional.relu(self.conv2(functional.relu(self.conv1(encoding))))


class Decoder(nn.Module):
    """The decoder of Zamir et al. (Taskonomy, CVPR 2018): (B, C, H, W) to (B, channels, 16 H, 16 W),
    16,453,299 parameters for 8 to 3.

    3 x 3 convolutions of widths 1024, 1024, 512, 256, 256, 128, then four times a transposed convolution that
    doubles the size and a convolution, the last of which has a bias. BatchNorm and leaky ReLU (0.2) follow
    each layer but the last. A Tanh follows that one if `bounded`: for targets in [-1, 1], never for class
    logits. The keys of the state dict are those of the published task bank.

    Args:
        c_in: channels of the encoding.
        channels: of the output.
        bounded: whether to limit the output to [-1, 1].
        width: channels of the widest layers; the others scale in proportion, down to 8.
    """

    def __init__(self, c_in: int, channels: int, bounded: bool, width: int = WIDTH) -> None:
        super().__init__()

        def scale(original: int) -> int:
            return max(MIN_CHANNELS, round(original * width / WIDTH))

        self.conv2 = _layer(c_in, scale(1024))
        self.conv3 = _layer(scale(1024), scale(1024))
        self.conv4 = _layer(scale(1024), scale(512))
        self.conv5 = _layer(scale(512), scale(256))
        self.conv6 = _layer(scale(256), scale(256))
        self.conv7 = _layer(scale(256), scale(128))
        self.deconv8 = _upsampling(scale(128), scale(64))
        self.conv9 = _layer(scale(64), scale(64))
        self.deconv10 = _upsampling(scale(64), scale(32))
        self.conv11 = _layer(scale(32), scale(32))
        self.deconv12 = _upsampling(scale(32), scale(16))
        self.conv13 = _layer(scale(16), scale(32))
        self.deconv14 = _upsampling(scale(32), scale(16))
        last = nn.Conv2d(scale(16), channels, 3, padding=1)
        self.decoder_output = nn.Sequential(last, nn.Tanh()) if bounded else nn.Sequential(last)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, C, H, W) to (B, channels, 16 H, 16 W)."""
        for layer in self.children():
            encoding = layer(encoding)
        return encoding


class DenseHead(nn.Module):
    """A transfer block and a `Decoder`; the output is resized to `size` (bilinear) if necessary.

    Raises:
        FitError: the encodings are not feature maps.
    """

    def __init__(
        self, shape: Shape, channels: int, size: tuple[int, int], bounded: bool, width: int = WIDTH
    ) -> None:
        super().__init__()
        _check_feature_map(shape)
        self.size = size
        self.transfer = Transfer(shape[0])
        self.decoder = Decoder(shape[0], channels, bounded, width)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, channels, *size)."""
        output: Tensor = self.decoder(self.transfer(encoding))
        if tuple(output.shape[2:]) == self.size:
            return output
        return functional.interpolate(output, size=list(self.size), mode="bilinear", align_corners=False)


class VectorHead(nn.Module):
    """A transfer block and the bank's classifier: flatten (channels last), linear, BatchNorm, ReLU, dropout,
    linear.

    At 8 x 16 x 16, with 2048 hidden units and 1000 classes, the classifier has 6,247,400 parameters.

    Raises:
        FitError: the encodings are not feature maps.
    """

    def __init__(self, shape: Shape, classes: int, hidden: int = 2048) -> None:
        super().__init__()
        _check_feature_map(shape)
        self.transfer = Transfer(shape[0])
        self.decoder = nn.Sequential(
            nn.Linear(shape[0] * shape[1] * shape[2], hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, classes)."""
        logits: Tensor = self.decoder(self.transfer(encoding).permute(0, 2, 3, 1).flatten(1))
        return logits


class _Upsampling(nn.ConvTranspose2d):
    """A transposed convolution with TensorFlow's padding: (B, C, H, W) to (B, C', 2 H, 2 W); PyTorch alone
    gives 2 H + 1 rows.

    The 3 x 3 kernel is padded with a leading row and column of zeros, which drops the last ones of the
    output: this is cheaper than cropping.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, stride=2, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return functional.conv_transpose2d(x, functional.pad(self.weight, (1, 0, 1, 0)), stride=2, padding=1)


def _layer(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)
    )


def _upsampling(c_in: int, c_out: int) -> nn.Sequential:
    """The identities replace the bank's padding and cropping, to keep its state dict keys."""
    return nn.Sequential(
        nn.Identity(), _Upsampling(c_in, c_out), nn.Identity(), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)
    )


def _check_feature_map(shape: Shape) -> None:
    if len(shape) != 3:
        raise FitError(
            "a dense task needs feature maps (C, H, W), such as those of "
            f"base 'taskonomy'; the encoding here has shape {tuple(shape)}"
        )
