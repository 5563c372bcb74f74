"""FCN5: the side network of the original dense experiments."""

from __future__ import annotations

import attrs

from sidetune_core.api import option

from ._fcn import FCN, Layer, Options, Skip


@attrs.frozen
class FCN5Options(Options):
    """Options of FCN5."""

    weights: str = option(
        "none",
        "'packaged' (ours, distilled from the base of env 'rooms'), 'none' (random), or a .safetensors, .pth or .dat file",
    )


class FCN5(FCN):
    """Five convolutions and a skip, 921,376 parameters beside an encoding of 8 channels.

    Widths 64, 256, 256, 64, 8; 256 x 256 gives maps of 64, 32, 16, 16 and 16. The skip leads from the second layer to the last. Keys are
    those of the original code's students.
    """

    Config = FCN5Options
    name = "fcn5"
    packaged = "fcn5-rooms.safetensors"
    layers = (
        Layer(64, kernel=8, stride=4, padding=2),
        Layer(256, stride=2),
        Layer(256, stride=2),
        Layer(64),
        Layer(8),
    )
    skips = (Skip("skip", source=2, target=5, stride=2),)
