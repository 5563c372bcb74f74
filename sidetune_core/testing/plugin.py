"""From a name to findings: what holds for plugins of every kind, then what holds for one kind."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs

from sidetune_core.config import kinds, registry
from sidetune_core.config.kinds import Kind
from sidetune_core.config.options import describe, structure, unstructure
from sidetune_core.config.registry import Plugin
from sidetune_core.errors import OptionError, PluginError
from sidetune_core.testing.env import check_env
from sidetune_core.testing.findings import Broken, Finding, attempt, settle
from sidetune_core.testing.imports import import_has_no_side_effects, package_imports_it_only_when_asked
from sidetune_core.testing.learner import check_learner
from sidetune_core.testing.networks import check_base, check_merger, check_side
from sidetune_core.testing.package import distribution_requires_sidetune, name_is_plain


@attrs.frozen
class Checked:
    """A plugin, and what was found about it."""

    kind: str
    name: str
    """As it was asked for: ``ewc``, or ``acme-sidetune/ewc``."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed that is not declared."""
        return all(finding.passed for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        findings = [
            {"check": one.check, "outcome": one.outcome, "message": one.message} for one in self.findings
        ]
        return {"kind": self.kind, "name": self.name, "passed": self.passed, "findings": findings}


def check_distribution(distribution: str, options: Mapping[str, Any] | None = None) -> list[Checked]:
    """Check every plugin of an installed distribution.

    Args:
        distribution: its name, such as ``acme-sidetune``.
        options: each is given to the plugins that have it.

    Raises:
        PluginError: it is not installed, or has no plugins.
        OptionError: no plugin takes one of `options`.
    """
    given = dict(options or {})
    taken = {plugin: _options(plugin) & given.keys() for plugin in registry.shipped(distribution)}
    if unused := sorted(given.keys() - set().union(*taken.values())):
        raise OptionError(f"no plugin of {distribution} has an option '{unused[0]}'")
    checked = []
    for plugin, names in taken.items():
        name = f"{plugin.distribution}/{plugin.name}"
        findings = check_plugin(plugin.kind.name, name, {option: given[option] for option in names})
        checked.append(Checked(plugin.kind.name, name, tuple(findings)))
    return checked


def _options(plugin: Plugin) -> set[str]:
    """The names of a plugin's options; none where it cannot be loaded, which is a finding of its own."""
    with contextlib.redirect_stdout(io.StringIO()):  # what is printed is another
        try:
            return {field.name for field in attrs.fields(registry.load(plugin).Config)}
        except PluginError:
            return set()


def check_plugin(kind: str, name: str, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check whether a plugin keeps the contracts of its kind.

    A class may declare checks that it is known to fail, and why: ``known_failures = {"penalty_is_zero_…": "the penalty is the method"}``.

    Args:
        kind: 'base', 'side', 'merger', 'learner' or 'env'.
        name: as on the command line: ``ewc``, ``acme-sidetune/ewc``, or ``my_module:MyLearner``.
        options: to build it with, where the defaults need files that are not there: ``{"weights": "none"}``, ``{"archive": path}``.

    Raises:
        PluginError: there is no such kind.
        OptionError: the plugin does not take `options`.
    """
    wanted = kinds.kind(kind)
    loaded: list[tuple[Plugin, type[Any]]] = []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        findings = [
            attempt(lambda: loaded.append(_find_and_load(wanted, name)), "name_leads_to_a_class_of_its_kind")
        ]
        if not loaded:
            return findings
        ((plugin, cls),) = loaded
        findings += [attempt(partial(check, plugin), check.__name__) for check in PACKAGE_CHECKS]
        findings.append(attempt(partial(class_says_what_it_is, cls), class_says_what_it_is.__name__))
        options_work = [attempt(partial(check, cls.Config), check.__name__) for check in CONFIG_CHECKS]
        findings += options_work
        if all(finding.passed for finding in options_work):
            config = structure(cls.Config, options or {}, f"{wanted.name} '{name}'")
            checks = {
                "base": check_base,
                "side": check_side,
                "merger": check_merger,
                "learner": check_learner,
                "env": check_env,
            }
            findings += checks[wanted.name](cls, config)
    findings.append(attempt(partial(nothing_is_printed, printed.getvalue()), nothing_is_printed.__name__))
    return settle(findings, getattr(cls, "known_failures", {}))


def _find_and_load(kind: Kind, name: str) -> tuple[Plugin, type[Any]]:
    plugin = registry.find(kind, name)
    return plugin, registry.load(plugin)


def nothing_is_printed(text: str) -> None:
    """Standard output is for results."""
    if text:
        raise Broken(f"prints {text.splitlines()[0]!r} while it is checked; leave standard output to results")


def class_says_what_it_is(cls: type[Any]) -> None:
    """`describe` has something to show."""
    if not cls.__doc__:
        raise Broken(f"{cls.__name__} has no docstring; say in a sentence what it is, for sidetune describe")


def every_option_has_a_help_text(config: type[Any]) -> None:
    """`describe` and ``--help`` have something to show."""
    bare = [field.name for field in attrs.fields(config) if not field.metadata.get("help")]
    if bare:
        raise Broken(
            f"{', '.join(bare)}: give a help text, with option(default, 'what it does, unit and range')"
        )
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
        raise Broken(
            f"{config()} becomes {again} on its way through JSON; use plain types (int, float, str, bool, Path, Literal, None)"
        )


def unknown_option_is_refused(config: type[Any]) -> None:
    """A misspelt option is told, not ignored."""
    try:
        structure(config, {"no_such_option": 1}, "Config")
    except OptionError:
        return
    raise Broken("Config takes an option 'no_such_option'; let every option be a field of its own")


CONFIG_CHECKS = (
    every_option_has_a_help_text,
    defaults_are_within_their_limits,
    options_survive_a_round_trip,
    unknown_option_is_refused,
)
PACKAGE_CHECKS = (
    name_is_plain,
    distribution_requires_sidetune,
    import_has_no_side_effects,
    package_imports_it_only_when_asked,
)
