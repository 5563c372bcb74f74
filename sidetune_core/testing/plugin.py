"""Check a plugin or a distribution by name: checks for every kind, then checks for its kind."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from sidetune_core.config import kinds, registry
from sidetune_core.config.kinds import Kind
from sidetune_core.config.options import describe, structure, unstructure
from sidetune_core.config.registry import Plugin
from sidetune_core.errors import OptionError, PluginError
from sidetune_core.interfaces.capabilities import MadeFromObject
from sidetune_core.testing import continuations, env, learner, networks
from sidetune_core.testing.effects import Effects, watched
from sidetune_core.testing.env import check_env
from sidetune_core.testing.findings import Broken, Finding, Skipped, attempt, report, settle
from sidetune_core.testing.given import Choices
from sidetune_core.testing.given import load as load_given
from sidetune_core.testing.imports import import_has_no_side_effects, package_imports_it_only_when_asked
from sidetune_core.testing.learner import check_learner
from sidetune_core.testing.network_checks import check_base, check_merger, check_side
from sidetune_core.testing.package import distribution_requires_sidetune, name_is_plain
from sidetune_core.testing.processes import order_is_the_same_in_every_process


@attrs.frozen
class Checked:
    """A plugin and its findings."""

    kind: str
    name: str
    """The requested name: ``ewc``, or ``acme-sidetune/ewc``."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed, apart from known failures."""
        return all(finding.passed for finding in self.findings)

    @property
    def report(self) -> str:
        """One line for each finding, a line of counts, and a line of what was not checked."""
        return report(self.findings, UNSEEN[self.kind])

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        findings = [
            {"check": finding.check, "outcome": finding.outcome, "message": finding.message}
            for finding in self.findings
        ]
        return {"kind": self.kind, "name": self.name, "passed": self.passed, "findings": findings}


def check_distribution(distribution: str, options: Mapping[str, Any] | None = None) -> list[Checked]:
    """Check every plugin of an installed distribution.

    Args:
        distribution: its name, such as ``acme-sidetune``.
        options: options; each plugin gets those that it has.

    Raises:
        PluginError: the distribution is not installed, or has no plugins.
        OptionError: no plugin takes one of `options`.
    """
    values = dict(options or {})
    accepted = {plugin: _options(plugin) & values.keys() for plugin in registry.shipped(distribution)}
    if unused := sorted(values.keys() - set().union(*accepted.values())):
        raise OptionError(f"no plugin of {distribution} has an option '{unused[0]}'")
    checked = []
    for plugin, names in accepted.items():
        name = f"{plugin.distribution}/{plugin.name}"
        findings = check_plugin(plugin.kind.name, name, {option: values[option] for option in names})
        checked.append(Checked(plugin.kind.name, name, tuple(findings)))
    return checked


def _options(plugin: Plugin) -> set[str]:
    """Names of a plugin's options; none if it cannot be loaded, which another check reports."""
    with contextlib.redirect_stdout(io.StringIO()):  # nothing_is_printed reports output
        try:
            return {field.name for field in attrs.fields(registry.load(plugin).Config)}
        except PluginError:
            return set()


def check_plugin(
    kind: str,
    name: str,
    options: Mapping[str, Any] | None = None,
    components: Choices | None = None,
) -> list[Finding]:
    """Check that a plugin keeps the contracts of its kind.

    A class may declare checks that it fails, with the reason:
    ``known_failures = {"penalty_is_zero_on_the_first_batch": "the penalty is the method"}``.

    Args:
        kind: 'base', 'side', 'merger', 'learner' or 'env'.
        name: as on the command line: ``ewc``, ``acme-sidetune/ewc``, or ``my_module:MyLearner``.
        options: options to build it with, if the defaults need files that are not available:
            ``{"weights": "none"}``, ``{"archive": path}``.
        components: other components to check it with, where the kit's own do not fit it:
            ``{"base": "resnet20", "env": {"name": "digits", "num_tasks": 2}}``.

    Raises:
        PluginError: there is no such kind, or no such component.
        OptionError: the plugin does not accept `options`.
    """
    requested = kinds.kind(kind)
    given = load_given(requested.name, components) if components else None
    loaded: list[tuple[Plugin, type[Any]]] = []
    with watched() as effects:
        findings = [
            attempt(
                lambda: loaded.append(_find_and_load(requested, name)), "name_resolves_to_a_class_of_its_kind"
            )
        ]
        if not loaded:
            return findings
        ((plugin, cls),) = loaded
        findings += [attempt(partial(check, plugin), check.__name__) for check in PACKAGE_CHECKS]
        findings.append(attempt(partial(class_has_a_docstring, cls), class_has_a_docstring.__name__))
        options_work = [attempt(partial(check, cls.Config), check.__name__) for check in CONFIG_CHECKS]
        findings += options_work
        if all(finding.passed for finding in options_work):
            config = structure(cls.Config, options or {}, f"{requested.name} '{name}'")
            checks: dict[str, Callable[..., list[Finding]]] = {
                "base": check_base,
                "side": check_side,
                "merger": check_merger,
                "learner": check_learner,
                "env": check_env,
            }
            if _needs_object(requested, cls, config):
                findings.append(attempt(_skip_without_object, "is_made_of_an_object"))
            else:
                findings += checks[requested.name](cls, config, given)
                same_order = partial(_check_order, findings, requested.name, name, cls, options or {})
                findings.append(attempt(same_order, order_is_the_same_in_every_process.__name__))
    findings += [attempt(partial(check, effects), check.__name__) for check in EFFECT_CHECKS]
    return settle(findings, getattr(cls, "known_failures", {}))


def _needs_object(kind: Kind, cls: type[Any], config: Any) -> bool:
    """Whether a component can be made of an object only, which Python gives (see `MadeFromObject`)."""
    arguments: dict[str, tuple[Any, ...]] = {"base": ({},), "env": (0,)}
    if kind.name not in arguments or not isinstance(cls, MadeFromObject):
        return False
    try:
        cls(config, *arguments[kind.name])
    except OptionError:
        return True
    except Exception:  # whatever it is, the checks report it
        return False
    return False


def _skip_without_object() -> None:
    raise Skipped(
        "it is made of an object that Python gives; to check it, derive a class whose __init__ "
        "takes (config, "
        "inputs), or (config, seed), and gives it one"
    )


def _check_order(
    findings: Sequence[Finding], kind: str, name: str, cls: type[Any], options: Mapping[str, Any]
) -> None:
    """`order_is_the_same_in_every_process`, where one process alone gives one result."""
    for finding in findings:
        if not finding.passed and finding.check in ONE_RESULT:
            raise Skipped(f"not run, since '{finding.check.replace('_', ' ')}' fails")
    order_is_the_same_in_every_process(kind, name, cls, options)


def _find_and_load(kind: Kind, name: str) -> tuple[Plugin, type[Any]]:
    plugin = registry.find(kind, name, trust_local_code=True)
    return plugin, registry.load(plugin)


def nothing_is_printed(effects: Effects) -> None:
    """Nothing is printed to standard output, which is for results, or to standard error."""
    if text := effects.printed.getvalue():
        raise Broken(f"prints {text.splitlines()[0]!r} during the checks; standard output is for results")
    if effects.complained:
        raise Broken(
            f"writes {effects.complained[0].splitlines()[0]!r} to standard error during the checks, in the "
            "middle of the progress bar; raise an error, or use warnings.warn()"
        )


def no_file_is_left(effects: Effects) -> None:
    """No file is written into the current folder."""
    if effects.written:
        raise Broken(
            f"writes {effects.written[0]} into the current folder; keep state in buffers, and write files "
            "only where an option says so"
        )


def class_has_a_docstring(cls: type[Any]) -> None:
    """The class has a docstring, which `sidetune describe` shows."""
    if not cls.__doc__:
        raise Broken(f"{cls.__name__} has no docstring; describe it in a sentence, for sidetune describe")


def every_option_has_a_help_text(config: type[Any]) -> None:
    """Every option has a help text, which `sidetune describe` and ``--help`` show."""
    bare = [field.name for field in attrs.fields(config) if not field.metadata.get("help")]
    if bare:
        raise Broken(
            f"{', '.join(bare)}: add a help text, with option(default, 'what it does, unit and range')"
        )
    describe(config)


def defaults_are_within_their_limits(config: type[Any]) -> None:
    """``Config()`` accepts its own defaults."""
    try:
        config()
    except (TypeError, ValueError) as error:
        raise Broken(f"Config() refuses its defaults: {error}") from error


def options_survive_a_round_trip(config: type[Any]) -> None:
    """Options survive JSON, so a run can be repeated from its ``run.json``."""
    plain = unstructure(config())
    restored = structure(config, json.loads(json.dumps(plain, default=str)), "Config")
    if restored != config():
        raise Broken(
            f"{config()} becomes {restored} after conversion to JSON and back; "
            "use plain types (int, float, str, bool, Path, Literal, None, tuples of these)"
        )


def unknown_option_is_refused(config: type[Any]) -> None:
    """A misspelt option is an error, not ignored."""
    try:
        structure(config, {"no_such_option": 1}, "Config")
    except OptionError:
        return
    raise Broken("Config accepts an option 'no_such_option'; declare every option as a field")


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
ONE_RESULT = (
    "can_be_built",
    "one_seed_gives_one_network",
    "trains_on_two_tasks",
    "one_seed_gives_one_result",
    "global_random_state_is_unchanged",
    "two_streams_of_one_seed_agree",
)
"""Checks whose failure makes any two processes differ."""
EFFECT_CHECKS = (nothing_is_printed, no_file_is_left)
KIND_CHECKS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "base": (*networks.BASE_CHECKS, *continuations.CHECKS),
    "side": networks.SIDE_CHECKS,
    "merger": networks.MERGER_CHECKS,
    "learner": learner.CHECKS,
    "env": env.CHECKS,
}


UNSEEN: Mapping[str, tuple[str, ...]] = {
    "base": ("a real GPU", "pretrained weights"),
    "side": ("a real GPU", "pretrained weights"),
    "merger": ("a real GPU",),
    "learner": ("a real GPU", "several processes", "gradient accumulation", "results"),
    "env": ("a real GPU", "several processes", "correctness of the data"),
}
"""What no check covers, by kind."""


def check_names(kind: str) -> tuple[str, ...]:
    """The names of all checks of a kind, in the order in which they run."""
    checks = (*PACKAGE_CHECKS, class_has_a_docstring, *CONFIG_CHECKS)
    return (
        "name_resolves_to_a_class_of_its_kind",
        *(check.__name__ for check in checks),
        "can_be_built",
        *(check.__name__ for check in KIND_CHECKS[kind]),
        order_is_the_same_in_every_process.__name__,
        *(check.__name__ for check in EFFECT_CHECKS),
        "known_failures_are_checks",
    )
