"""A small simulator of rooms and a dataset for habitat-lab; importing this registers both as ``Rooms-v0``."""

from __future__ import annotations

from .without_habitat_sim import stand_in

stand_in()

from . import dataset, simulator  # noqa: E402, F401 - registration needs habitat
