"""The commands of the ledger that use this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.config.resolve import resolve
from sidetune_core.ledger.claims import read_entry
from sidetune_core.ledger.reproduce import read_command


@pytest.mark.parametrize("name", ["icifar-class32-icarl"])
def test_the_command_of_a_claim_resolves(name: str) -> None:
    entry = read_entry(Path(__file__).parents[3] / "ledger", name)
    assert (
        resolve(read_command(entry.claim)).components["learner"].plugin.distribution == "sidetune-continual"
    )
