"""Energy from the counters of a machine, here files in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.system.energy import EnergyMeter


def write(root: Path, **microjoules: int) -> None:
    for name, value in microjoules.items():
        zone = root / "sys/class/powercap" / name.replace("_", ":").replace("rapl", "intel-rapl")
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("10000000\n")


def test_joules_since_the_last_call_are_those_of_all_packages_and_not_of_their_parts(tmp_path: Path) -> None:
    write(tmp_path, rapl_0=1_000_000, rapl_1=0, rapl_0_0=5)
    meter = EnergyMeter(tmp_path)
    write(tmp_path, rapl_0=3_500_000, rapl_1=250_000, rapl_0_0=9_000_000)
    assert meter() == pytest.approx(2.75)
    write(tmp_path, rapl_0=500_000)  # it has begun at 0 again
    assert meter() == pytest.approx(7)


def test_without_counters_or_without_permission_there_is_no_energy(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path)() is None
    write(tmp_path, rapl_0=1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert EnergyMeter(tmp_path)() is None
