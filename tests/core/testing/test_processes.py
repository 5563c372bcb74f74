"""What depends on the order of a set differs between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.testing import check_plugin

MERGER = """
import attrs, torch
from torch import nn
from sidetune_core.api import Merger

class Named(Merger):
    "A merger with named weights."
    @attrs.frozen
    class Config:
        "No options."

    def __init__(self, config, shape, count):
        super().__init__()
        for name in NAMES:
            self.register_parameter(name, nn.Parameter(torch.rand(())))

    def forward(self, encodings):
        return torch.stack(list(encodings)).sum(0) * sum(self.parameters())
"""


def findings(names: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Failures of a merger that makes parameters in some order."""
    module = f"named{abs(hash(names))}"
    (folder / f"{module}.py").write_text(MERGER.replace("NAMES", names))
    monkeypatch.syspath_prepend(folder)
    found = check_plugin("merger", f"{module}:Named")
    return {finding.check: finding.message for finding in found if not finding.passed}


def test_weights_in_the_order_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = findings("{'alpha', 'beta', 'gamma', 'delta', 'epsilon'}", tmp_path, monkeypatch)
    assert failed.keys() == {"order_is_the_same_in_every_process"}


def test_weights_in_the_order_of_a_tuple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings("('alpha', 'beta', 'gamma')", tmp_path, monkeypatch) == {}
