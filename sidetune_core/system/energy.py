"""The energy that the processors of this machine have used, where it says so: Intel's and AMD's RAPL counters
under Linux's ``/sys/class/powercap``.

They count whole packages, so what other processes do at the same time is in them. Reading them often takes
the rights of the administrator; then there is no energy, rather than an estimate.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = re.compile(r"[a-z-]*rapl:\d+")
"""Name of the zone of a package; ``intel-rapl:0:0`` is a part of it."""


class EnergyMeter:
    """Measures from its creation on.

    Args:
        root: of the file system.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        folder = root / "sys/class/powercap"
        zones = sorted(folder.iterdir()) if folder.is_dir() else []
        self._zones = [zone for zone in zones if PACKAGE.fullmatch(zone.name)]
        self._last = self._read()

    def __call__(self) -> float | None:
        """Joules since the last call; None where no counter can be read."""
        before, self._last = self._last, self._read()
        if before is None or self._last is None:
            return None
        used = 0
        for start, (end, largest) in zip(before, self._last, strict=True):
            used += end - start[0] + (largest if end < start[0] else 0)  # it begins at 0 again
        return used / 1e6

    def _read(self) -> list[tuple[int, int]] | None:
        """Microjoules and the largest value of each counter; None if there is none, or one cannot be read."""
        try:
            return [
                (int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text()))
                for zone in self._zones
            ] or None
        except (OSError, ValueError):
            return None
