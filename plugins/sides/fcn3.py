"""FCN3: the smallest side network of the original dense experiments."""

from __future__ import annotations

from ._fcn import FCN, Layer


class FCN3(FCN):
    """Three convolutions, 178,816 parameters beside an encoding of 8 channels: widths 64, 256, 8; 256 x 256 gives maps of 63, 33 and 16."""

    name = "fcn3"
    layers = (
        Layer(64, kernel=8, stride=4),
        Layer(256, stride=2, padding=2),
        Layer(8, stride=2, padding=0, norm=False),
    )
