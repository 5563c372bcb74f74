"""Verbs about registered parts: `list`, `describe`, `check`, `new`."""

from __future__ import annotations

import inspect
from pathlib import Path

import attrs
from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, assignment, print_json
from sidetune_core.config import kinds, registry
from sidetune_core.config.options import describe as describe_options
from sidetune_core.errors import OptionError


def list_plugins(kind: Positional[str | None] = None, json: Switch = False) -> int:
    """List the registered parts, from package metadata only.

    Args:
        kind: bases, sides, mergers, learners or envs; all where it is left out.
        json: print JSON.
    """
    chosen = [kinds.kind(kind)] if kind else list(kinds.KINDS)
    found = {one.plural: registry.installed(one) for one in chosen}
    if json:
        without_kind = attrs.filters.exclude("kind")
        print_json(
            {
                name: [attrs.asdict(plugin, filter=without_kind) for plugin in plugins]
                for name, plugins in found.items()
            }
        )
        return 0
    for one in chosen:
        print(f"{one.plural} ({one.summary})")
        for plugin in found[one.plural]:
            print(f"  {plugin.name:<14}{plugin.origin}")
        if not found[one.plural]:
            print("  none")
    return 0


def describe(kind: Positional[str], name: Positional[str]) -> int:
    """Show what a part is and which options it has.

    Args:
        kind: base, side, merger, learner or env.
        name: as it is registered.
    """
    plugin = registry.find(kinds.kind(kind), name)
    cls = registry.load(plugin)
    print(f"{plugin.title}: {plugin.target}\n\n{inspect.getdoc(cls)}\n")
    for slot, word in (("needs", "needs"), ("takes", "can use")):
        if getattr(cls, slot, None):
            print(f"{word}: {', '.join(sorted(getattr(cls, slot)))}")
    if getattr(cls, "recipe", None):
        print(
            "training defaults: " + ", ".join(f"--train.{key} {value}" for key, value in cls.recipe.items())
        )
    options = describe_options(cls.Config)
    print("options:" if options else "no options")
    for option in options:
        print(
            f"  --{plugin.kind.name}.{option.name}  {option.type}, default {option.default}\n      {option.help}"
        )
    return 0


def check(
    kind: Positional[str | None] = None,
    name: Positional[str | None] = None,
    options: Positional[tuple[str, ...]] = (),
    distribution: str | None = None,
    json: Switch = False,
) -> int:
    """Check that a part keeps the contract of its kind, or all parts of a package. Exit status 1 where one does not.

    Args:
        kind: base, side, merger, learner or env.
        name: as it is registered.
        options: such as ``weights=none`` or ``tasks=2``, where the defaults need files that are not there.
        distribution: check every part of this installed package instead; options follow as KIND and NAME would.
        json: print JSON.
    """
    if distribution is not None:
        options = (*filter(None, (kind, name)), *options)
    from sidetune_core import testing

    values = dict(map(assignment, options))
    if distribution is not None:
        checked = testing.check_distribution(distribution, values)
    elif kind is None or name is None:
        raise OptionError(
            "name what to check: sidetune check learner sidetune, or sidetune check --distribution PACKAGE"
        )
    else:
        checked = [
            testing.Checked(kinds.kind(kind).name, name, tuple(testing.check_plugin(kind, name, values)))
        ]
    passed = all(one.passed for one in checked)
    if json:
        print_json({"passed": passed, "plugins": [one.to_json() for one in checked]})
    else:
        blocks = [f"{one.kind} '{one.name}'\n{testing.report(one.findings)}" for one in checked]
        print("\n\n".join(blocks) if distribution is not None else testing.report(checked[0].findings))
    return 0 if passed else 1


def new_package(kind: Positional[str], name: Positional[str], out: Path | None = None) -> int:
    """Write a package with a part of your own to go on from: metadata, class, options, test.

    Args:
        kind: base, side, merger, learner or env.
        name: what the part is to be called, such as my_method.
        out: folder of the package, empty or absent; sidetune-NAME where it is left out.
    """
    from sidetune_core.cli.scaffold import create_package

    one = kinds.kind(kind)
    folder = create_package(one, name, out)
    print(folder)
    print(
        f"try next    pip install -e {folder} && sidetune check {one.name} {name} && sidetune-run --{one.name} {name}"
    )
    return 0
