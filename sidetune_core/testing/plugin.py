"""From a name to findings: what holds for plugins of every kind, then what holds for one kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs

from sidetune_core import kinds, registry
from sidetune_core.errors import OptionError
from sidetune_core.options import describe, structure, unstructure
from sidetune_core.testing.findings import Broken, Finding, attempt
from sidetune_core.testing.learner import check_learner
from sidetune_core.testing.networks import check_base, check_merger, check_side
from sidetune_core.testing.stream import check_env


def check_plugin(kind: str, name: str, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check whether a plugin keeps the contracts of its kind.

    Args:
        kind: 'base', 'side', 'merger', 'learner' or 'env'.
        name: as on the command line: ``ewc``, ``acme-sidetune/ewc``, or ``my_module:MyLearner``.
        options: to build it with, where the defaults need files that are not there: ``{"weights": "none"}``, ``{"archive": path}``.

    Raises:
        PluginError: there is no such kind.
        OptionError: the plugin does not take `options`.
    """
    wanted = kinds.kind(kind)
    loaded: list[type[Any]] = []
    findings = [attempt(lambda: loaded.append(registry.load(registry.find(wanted, name))), "name_leads_to_a_class_of_its_kind")]
    if not loaded:
        return findings
    cls = loaded[0]
    findings += [attempt(partial(check, cls.Config), check.__name__) for check in CONFIG_CHECKS]
    if not all(finding.passed for finding in findings):
        return findings
    config = structure(cls.Config, options or {}, f"{wanted.name} '{name}'")
    checks = {"base": check_base, "side": check_side, "merger": check_merger, "learner": check_learner, "env": check_env}
    return findings + checks[wanted.name](cls, config)


def every_option_has_a_help_text(config: type[Any]) -> None:
    """`describe` and ``--help`` have something to show."""
    bare = [field.name for field in attrs.fields(config) if not field.metadata.get("help")]
    if bare:
        raise Broken(f"{', '.join(bare)}: give a help text, with option(default, 'what it does, unit and range')")
    describe(config)


def defaults_are_within_their_limits(config: type[Any]) -> None:
    """``Config()`` can be made."""
    try:
        config()
    except (TypeError, ValueError) as error:
        raise Broken(f"Config() is refused: {error}") from error


def options_survive_a_round_trip(config: type[Any]) -> None:
    """A run can be started again from its ``run.json``."""
    plain = unstructure(config())
    again = structure(config, json.loads(json.dumps(plain, default=str)), "Config")
    if again != config():
        raise Broken(f"{config()} becomes {again} on its way through JSON; use plain types (int, float, str, bool, Path, Literal, None)")


def unknown_option_is_refused(config: type[Any]) -> None:
    """A misspelt option is told, not ignored."""
    try:
        structure(config, {"no_such_option": 1}, "Config")
    except OptionError:
        return
    raise Broken("Config takes an option 'no_such_option'; let every option be a field of its own")


CONFIG_CHECKS = (every_option_has_a_help_text, defaults_are_within_their_limits, options_survive_a_round_trip, unknown_option_is_refused)
