"""FCN5: the side network of the original dense experiments."""

from __future__ import annotations

from ._fcn import FCN, Layer, Skip


class FCN5(FCN):
    """Five convolutions and a skip, 921,376 parameters beside an encoding of 8 channels.

    Widths 64, 256, 256, 64, 8; 256 x 256 gives maps of 64, 32, 16, 16 and 16. The skip leads from the second layer to the last. Keys are
    those of the original code's students.
    """

    name = "fcn5"
    layers = (
        Layer(64, kernel=8, stride=4, padding=2),
        Layer(256, stride=2),
        Layer(256, stride=2),
        Layer(64),
        Layer(8),
    )
    skips = (Skip("skip", source=2, target=5, stride=2),)
