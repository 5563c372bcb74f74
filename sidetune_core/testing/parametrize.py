"""The conformance kit for pytest, with a test id for each check."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sidetune_core.config import kinds
from sidetune_core.testing.findings import Finding
from sidetune_core.testing.given import Choices
from sidetune_core.testing.plugin import check_names, check_plugin

if TYPE_CHECKING:
    import pytest


def parametrize_checks(
    kind: str,
    name: str,
    options: Mapping[str, Any] | None = None,
    components: Choices | None = None,
) -> pytest.MarkDecorator:
    """Parametrize a test over the checks of a plugin: the test calls its argument, ``check()``.

    A check that does not apply is a skipped test, a known failure an expected failure. The plugin is loaded
    and checked when the first of the tests runs.

    Args:
        kind: 'base', 'side', 'merger', 'learner' or 'env'.
        name: as on the command line: ``ewc``, ``acme-sidetune/ewc``, or ``my_module:MyLearner``.
        options: options to build the plugin with (see `check_plugin`).
        components: other components to check it with (see `check_plugin`).

    Raises:
        PluginError: there is no such kind.
    """
    import pytest

    kind = kinds.kind(kind).name

    @functools.cache
    def findings() -> dict[str, Finding]:
        worst_last = sorted(
            check_plugin(kind, name, options, components), key=lambda finding: not finding.passed
        )
        return {finding.check: finding for finding in worst_last}

    def run(check: str) -> None:
        finding = findings().get(check)
        if finding is None and check != "known_failures_are_checks":
            pytest.skip("does not apply, or a check before it failed")
        if finding is None:
            return
        if finding.skipped:
            pytest.skip(finding.message)
        if finding.known:
            pytest.xfail(finding.message)
        assert finding.passed, finding.message

    names = check_names(kind)
    return pytest.mark.parametrize("check", [functools.partial(run, check) for check in names], ids=names)
