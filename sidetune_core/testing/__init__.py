"""The conformance kit: checks that a plugin keeps the contracts that the core relies on.

    from sidetune_core.testing import parametrize_checks

    @parametrize_checks("learner", "replay")
    def test_my_learner_conforms(check) -> None:
        check()

Each check is a pytest test of its own: ``pytest -k checkpoint_holds_all_state`` selects one. `check_plugin`
returns the outcomes as a list. On the command line: ``sidetune check learner replay``, or ``sidetune check
--distribution acme-sidetune`` for all plugins of a package.

A plugin that cannot keep a contract declares it, with the reason, and the check counts as passed:

    class Replay(Learner):
        known_failures = {"checkpoint_holds_all_state": "the buffer of examples is on disk"}
"""

from __future__ import annotations

from sidetune_core.testing.findings import Finding, report
from sidetune_core.testing.parametrize import parametrize_checks
from sidetune_core.testing.plugin import Checked, check_distribution, check_plugin

__all__ = ["Checked", "Finding", "check_distribution", "check_plugin", "parametrize_checks", "report"]
