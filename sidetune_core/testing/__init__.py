"""The conformance kit: whether a plugin keeps the contracts that the core relies on.

    from sidetune_core.testing import Checked, check_distribution, check_plugin

    def test_my_learner_conforms() -> None:
        assert [finding for finding in check_plugin("learner", "replay") if not finding.passed] == []

On the command line: ``sidetune check learner replay``, or ``sidetune check --distribution acme-sidetune`` for all of a package.

A plugin that cannot keep a contract says so, and why, and the check then counts as passed:

    class Replay(Learner):
        known_failures = {"checkpoint_is_the_whole_state": "the buffer of examples is on disk"}
"""

from __future__ import annotations

from sidetune_core.testing.findings import Finding, report
from sidetune_core.testing.plugin import Checked, check_distribution, check_plugin

__all__ = ["Checked", "Finding", "check_distribution", "check_plugin", "report"]
