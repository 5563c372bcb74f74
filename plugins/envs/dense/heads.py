"""Heads for dense tasks: from a small map to an image, or to classes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError, Shape

WIDTH = 1024
"""Channels of the widest layers of the original decoder."""
SLIMMEST = 8
"""Fewest channels of a layer: with 2 in the last ones a task could be stuck for its whole training, as 2-D keypoints were."""


class Transfer(nn.Module):
    """Two 3 x 3 convolutions with ReLU, plus the input: what adapts an encoding (B, C, H, W) to a decoder; 1,168 parameters at C = 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return encoding + functional.relu(self.conv2(functional.relu(self.conv1(encoding))))


class Decoder(nn.Module):
    """The decoder of Zamir et al. (Taskonomy, CVPR 2018): (B, C, H, W) to (B, channels, 16 H, 16 W), 16,453,299 parameters for 8 to 3.

    3 x 3 convolutions of widths 1024, 1024, 512, 256, 256, 128, then four times a transposed convolution that doubles the size and a
    convolution, the last of which has a bias. BatchNorm and leaky ReLU (0.2) follow each layer but the last, which a Tanh follows where
    `bounded`: for targets in [-1, 1], and never for scores of classes. Keys are those of the published bank.

    Args:
        c_in: channels of the encoding.
        channels: of the output.
        bounded: whether the output is in [-1, 1].
        width: channels of the widest layers; all others are in proportion, but no fewer than 8.
    """

    def __init__(self, c_in: int, channels: int, bounded: bool, width: int = WIDTH) -> None:
        super().__init__()

        def wide(original: int) -> int:
            return max(SLIMMEST, round(original * width / WIDTH))

        self.conv2 = _layer(c_in, wide(1024))
        self.conv3 = _layer(wide(1024), wide(1024))
        self.conv4 = _layer(wide(1024), wide(512))
        self.conv5 = _layer(wide(512), wide(256))
        self.conv6 = _layer(wide(256), wide(256))
        self.conv7 = _layer(wide(256), wide(128))
        self.deconv8 = _doubling(wide(128), wide(64))
        self.conv9 = _layer(wide(64), wide(64))
        self.deconv10 = _doubling(wide(64), wide(32))
        self.conv11 = _layer(wide(32), wide(32))
        self.deconv12 = _doubling(wide(32), wide(16))
        self.conv13 = _layer(wide(16), wide(32))
        self.deconv14 = _doubling(wide(32), wide(16))
        last = nn.Conv2d(wide(16), channels, 3, padding=1)
        self.decoder_output = nn.Sequential(last, nn.Tanh()) if bounded else nn.Sequential(last)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, C, H, W) to (B, channels, 16 H, 16 W)."""
        for layer in self.children():
            encoding = layer(encoding)
        return encoding


class DenseHead(nn.Module):
    """A transfer convolution and a `Decoder`; an output of another size than `size` is resampled to it (bilinear).

    Raises:
        FitError: encodings are no maps.
    """

    def __init__(
        self, shape: Shape, channels: int, size: tuple[int, int], bounded: bool, width: int = WIDTH
    ) -> None:
        super().__init__()
        _check_map(shape)
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
    """A transfer convolution and the bank's decoder for classes: flatten (channels last), linear, BatchNorm, ReLU, dropout, linear.

    At 8 x 16 x 16, with 2048 hidden units and 1000 classes, the decoder has 6,247,400 parameters.

    Raises:
        FitError: encodings are no maps.
    """

    def __init__(self, shape: Shape, classes: int, hidden: int = 2048) -> None:
        super().__init__()
        _check_map(shape)
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
        scores: Tensor = self.decoder(self.transfer(encoding).permute(0, 2, 3, 1).flatten(1))
        return scores


class _Doubling(nn.ConvTranspose2d):
    """A transposed convolution with TensorFlow's padding: (B, C, H, W) to (B, C', 2 H, 2 W); PyTorch alone gives 2 H + 1 rows.

    The kernel of 3 x 3 has a row and a column of zeros put before it, which leaves out the last ones of the output: cheaper than to crop.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, stride=2, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return functional.conv_transpose2d(x, functional.pad(self.weight, (1, 0, 1, 0)), stride=2, padding=1)


def _layer(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)
    )


def _doubling(c_in: int, c_out: int) -> nn.Sequential:
    """The bank pads before and crops after: places 0 and 2 of a layer, which keys count."""
    return nn.Sequential(
        nn.Identity(), _Doubling(c_in, c_out), nn.Identity(), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)
    )


def _check_map(shape: Shape) -> None:
    if len(shape) != 3:
        raise FitError(
            f"a dense task needs encodings that are maps (C, H, W), such as those of base 'taskonomy'; this base's are {tuple(shape)}"
        )
