"""The conformance kit: whether a plugin keeps the contracts that the core relies on.

    from sidetune_core.testing import check_plugin

    def test_my_learner_conforms() -> None:
        assert [finding for finding in check_plugin("learner", "replay") if not finding.passed] == []

On the command line: ``sidetune check learner replay``.
"""

from __future__ import annotations

from sidetune_core.testing.findings import Finding, report
from sidetune_core.testing.plugin import check_plugin

__all__ = ["Finding", "check_plugin", "report"]
