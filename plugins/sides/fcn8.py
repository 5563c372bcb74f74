"""FCN8: the large side network of the original dense experiments."""

from __future__ import annotations

from ._fcn import FCN, Layer, Skip


class FCN8(FCN):
    """Eight convolutions and three skips, 3,361,440 parameters beside an encoding of 8 channels.

    Widths 64, 128, 256 four times, 128, 8; 256 x 256 gives maps of 64, 32, and 16 from then on. In the original it is the independent
    network that is matched in size with a base shared by twelve sides.
    """

    name = "fcn8"
    layers = (
        Layer(64, kernel=8, stride=4, padding=2),
        Layer(128, stride=2),
        Layer(256, stride=2),
        Layer(256),
        Layer(256),
        Layer(256),
        Layer(128),
        Layer(8),
    )
    skips = (Skip("skip1", 2, 4, stride=2), Skip("skip2", 4, 6), Skip("skip3", 6, 8))
