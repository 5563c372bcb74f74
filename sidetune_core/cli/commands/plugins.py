"""Commands about installed components: `list`, `describe`, `check`, `new`."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import attrs
from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, assignment, print_json
from sidetune_core.config import kinds, registry
from sidetune_core.config.inventory import Inventory
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import indented, one_line


def list_plugins(kind: Positional[str | None] = None, json: Switch = False, names: Switch = False) -> int:
    """List the installed components, and those of packages to install. Nothing is imported.

    Args:
        kind: bases, sides, mergers, learners or envs; default: all.
        json: print JSON.
        names: print names only, one a line.
    """
    from sidetune_core.config.summaries import summary

    chosen = [kinds.kind(kind)] if kind else list(kinds.KINDS)
    inventory = registry.scan(chosen)
    plugins = inventory.plugins
    if names:
        print("\n".join(one_line(plugin.name) for listed in chosen for plugin in plugins[listed]))
        return 0
    for problem in inventory.unusable if json else inventory.damaged:
        print(f"warning: {indented(problem)}", file=sys.stderr)
    if json:
        without_kind = attrs.filters.exclude("kind")
        tables = {
            listed.plural: [
                {**attrs.asdict(plugin, filter=without_kind), "summary": summary(plugin)}
                for plugin in plugins[listed]
            ]
            for listed in chosen
        }
        print_json(tables)
        return 0
    origins = [plugin.origin for listed in chosen for plugin in plugins[listed]]
    width = max(map(len, origins), default=0)
    for listed in chosen:
        print(f"{listed.plural} ({listed.summary})")
        for plugin in plugins[listed]:
            _print_cut(f"  {plugin.name:<14}{plugin.origin:<{width}}  {summary(plugin)}")
        for problem in inventory.of_kind(listed):
            print(one_line(f"  {problem.name:<14}{problem.origin}, unusable: {problem.reason}"))
        if not plugins[listed]:
            print("  none")
    _print_not_installed(inventory, chosen)
    return 0


def _print_not_installed(inventory: Inventory, chosen: Sequence[kinds.Kind]) -> None:
    from sidetune_core.config.checkout import not_installed

    for number, package in enumerate(not_installed(inventory, chosen)):
        if not number:
            print("not installed (packages in this checkout)")
        names = [f"{kind.plural} {', '.join(own)}" for kind, own in package.components.items() if own]
        print(one_line(f"  {package.name}: {'; '.join(names)}"))
        print(one_line(f"      {package.command}"))


def _print_cut(line: str) -> None:
    """Print a line, cut at the width of the terminal if the output is one."""
    line = one_line(line.rstrip())
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(line)
    print(line if len(line) <= columns else f"{line[: columns - 1]}…")


def describe(kind: Positional[str], name: Positional[str]) -> int:
    """Show a component and its options.

    Args:
        kind: base, side, merger, learner or env.
        name: its registered name.
    """
    from sidetune_core.config.differences import flatten
    from sidetune_core.config.options import describe as describe_options
    from sidetune_core.config.resolve import recipe_components, recipe_options, recipe_tables

    plugin = registry.find(kinds.kind(kind), name, trust_local_code=True)
    with redirect_stdout(sys.stderr):  # what its module prints is no description
        cls = registry.load(plugin)
    text = inspect.cleandoc(
        cls.__doc__ or "(no docstring)"
    )  # its own: that of the interface says nothing of it
    print(f"{one_line(plugin.title)}: {one_line(plugin.target)}\n\n{text}\n")
    for attribute, label in (("needs", "needs"), ("optional_components", "can use")):
        if getattr(cls, attribute, None):
            print(f"{label}: {', '.join(sorted(getattr(cls, attribute)))}")
    if getattr(cls, "recipe", None):
        tables = flatten(recipe_tables(cls.recipe, plugin.title))
        for slot, component in recipe_components(cls.recipe):
            own = recipe_options(cls.recipe, slot, component)
            tables |= {f"{slot}.{option}": value for option, value in own.items()}
        defaults = [f"--{name.replace('_', '-')} {value}" for name, value in tables.items()]
        print(f"defaults in this env: {', '.join(defaults)}")
    options = describe_options(cls.Config)
    print("options:" if options else "no options")
    for option in options:
        flag = f"--{plugin.kind.name}.{option.name}"
        print(f"  {flag}  {option.type}, default {one_line(_shown(option.default))}\n      {option.help}")
    return 0


def _shown(value: object) -> str:
    """A default as it is typed on a command line."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def check(
    kind: Positional[str | None] = None,
    name: Positional[str | None] = None,
    options: Positional[tuple[str, ...]] = (),
    distribution: str | None = None,
    base: tuple[str, ...] = (),
    side: tuple[str, ...] = (),
    merger: tuple[str, ...] = (),
    env: tuple[str, ...] = (),
    json: Switch = False,
) -> int:
    """Check that a component, or each component of a package, implements its interface. Exit status 1 if one
    does not.

    Args:
        kind: base, side, merger, learner or env.
        name: its registered name.
        options: such as weights=none or num-tasks=2, if the defaults need files that are missing.
        distribution: check every component of this installed package instead of KIND and NAME.
        base: check it with this base instead of the kit's, such as: timm model=resnet10t weights=none.
        side: check a learner with this side.
        merger: check a learner with this merger.
        env: check it on the inputs and tasks of this env.
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
            "choose what to check: sidetune check learner sidetune, or sidetune check --distribution PACKAGE"
        )
    else:
        given = {"base": base, "side": side, "merger": merger, "env": env}
        components = {slot: _choice(words) for slot, words in given.items() if words}
        findings = testing.check_plugin(kind, name, values, components)
        checked = [testing.Checked(kinds.kind(kind).name, name, tuple(findings))]
    passed = all(result.passed for result in checked)
    if json:
        print_json({"passed": passed, "plugins": [result.to_json() for result in checked]})
    elif distribution is None:
        print(checked[0].report)
    else:
        print("\n\n".join(f"{one.kind} '{one_line(one.name)}'\n{one.report}" for one in checked))
    return 0 if passed else 1


def _choice(words: Sequence[str]) -> dict[str, object]:
    """``timm weights=none`` as a name with options."""
    name, *options = words
    return {"name": name, **{key.replace("-", "_"): value for key, value in map(assignment, options)}}


def new_package(kind: Positional[str], name: Positional[str], out: Path | None = None) -> int:
    """Create a package with a component of your own: metadata, class, options, test.

    Args:
        kind: base, side, merger, learner or env.
        name: name of the component, such as my_method.
        out: folder of the package, empty or absent; default: sidetune-NAME.
    """
    from sidetune_core.cli.scaffold import create_package

    slot = kinds.kind(kind).name
    folder = create_package(kinds.kind(kind), name, out)
    print(one_line(folder))
    print(
        f"try next    pip install -e {folder} && sidetune check {slot} {name} && sidetune-run --{slot} {name}"
    )
    return 0
