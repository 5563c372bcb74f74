"""The space of a search of options: what its command line says, checked, and which options each combination
of components uses.

On the command line every option of ``sidetune-run`` can have a range or a list of values (see `ranges`); all
others are fixed. An option that a run does not use is left out of it, so that one search can choose between
components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import attrs

from sidetune_core.config import argv
from sidetune_core.config.arguments import Spellings, make_spellings, split_arguments
from sidetune_core.config.argv_mistakes import hint_for
from sidetune_core.config.argv_names import with_names
from sidetune_core.config.argv_options import OF_SPEC
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.option_tables import TABLES
from sidetune_core.config.options import alternatives
from sidetune_core.config.resolve import ResolvedRun, load_components
from sidetune_core.config.selection import MissingSplit, Selection
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import OptionError
from sidetune_core.results.metrics import have_one_unit
from sidetune_core.sweeps import ranges
from sidetune_core.sweeps.grid import Grid, component_names, is_axis, resolve_point, split_applicable
from sidetune_core.sweeps.ranges import Axis, Choices, Fixed, Range, Value

VAL_FRACTION = "env.val-fraction"
HELD_OUT = "0.1"
"""Fraction of the training examples that a search holds out where there is no split val."""

Params = Mapping[str, Value]
"""The values of the options that are searched, by name; those that the run does not use are absent."""


@attrs.frozen
class Combination:
    """Components by slot, of those that are searched, and what a run with them uses."""

    components: Mapping[str, str]
    axes: Mapping[str, Axis]
    """All options of its command line, in order."""
    composition: str
    """One line, with the first value of each option."""

    @property
    def searched(self) -> Mapping[str, Axis]:
        """The options that have more than one value, without the components."""
        return {
            name: axis
            for name, axis in self.axes.items()
            if not isinstance(axis, Fixed) and name not in self.components
        }


@attrs.frozen
class Space:
    """What is searched, and how its results are compared."""

    combinations: tuple[Combination, ...]
    spec_words: tuple[str, ...]
    """``--spec FILE``, or nothing."""
    switches: frozenset[str]
    """Options that are set without a value: ``--learner.norm`` or ``--learner.no-norm``."""
    first_tasks: int
    """Number of tasks that are trained."""
    metric: str
    higher_is_better: bool
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The searched components and options."""
        found = [[*one.components, *one.searched] for one in self.combinations]
        return tuple(dict.fromkeys(itertools.chain.from_iterable(found)))

    @property
    def choosers(self) -> Mapping[str, tuple[str, ...]]:
        """The names of each searched component, by slot."""
        return {
            slot: tuple(dict.fromkeys(one.components[slot] for one in self.combinations))
            for slot in self.combinations[0].components
        }

    def combination(self, params: Params) -> Combination:
        """That of some params, with or without options."""
        return next(
            one
            for one in self.combinations
            if all(params.get(slot) == name for slot, name in one.components.items())
        )

    def words(self, params: Params) -> list[str]:
        """The arguments of ``sidetune-run`` for some params."""
        words = list(self.spec_words)
        for name, axis in self.combination(params).axes.items():
            if isinstance(axis, Fixed):
                words += [f"--{name}", *axis.words]
            elif name in self.switches:
                slot, _, option = name.rpartition(".")
                on = str(params[name]).lower() == "true"
                words.append(f"--{name}" if on else f"--{slot}.no-{option}")
            else:
                words += [f"--{name}", as_text(params[name])]
        return words

    def size(self) -> float:
        """The number of points; infinite with a range of numbers that are not whole."""
        return sum(_product(list(one.searched.values())) for one in self.combinations)

    def points(self) -> Iterator[dict[str, Value]]:
        """All points of a finite space, the last option fastest."""
        for one in self.combinations:
            lists = [_values(axis) for axis in one.searched.values()]
            for values in itertools.product(*lists):
                yield {**one.components, **dict(zip(one.searched, values, strict=True))}

    def to_json(self) -> dict[str, Any]:
        """Plain values; `read_space` reads them back."""
        return {
            **attrs.asdict(self, filter=lambda field, _: field.name not in ("combinations", "switches")),
            "switches": sorted(self.switches),
            "combinations": [
                {
                    "components": dict(one.components),
                    "axes": {name: ranges.to_json(axis) for name, axis in one.axes.items()},
                    "composition": one.composition,
                }
                for one in self.combinations
            ],
        }


def read_space(values: Mapping[str, Any]) -> Space:
    """See `Space.to_json`.

    Raises:
        KeyError, TypeError, ValueError: the values are not those of a space.
    """
    combinations = tuple(
        Combination(
            one["components"],
            {name: ranges.from_json(axis) for name, axis in one["axes"].items()},
            one["composition"],
        )
        for one in values["combinations"]
    )
    rest = {name: values[name] for name in ("first_tasks", "metric", "higher_is_better")}
    return Space(
        combinations,
        tuple(values["spec_words"]),
        frozenset(values["switches"]),
        notes=tuple(values["notes"]),
        **rest,
    )


def plan_space(words: Sequence[str], first_tasks: int | None, trust_local_code: bool = False) -> Space:
    """The space of a command line, checked, with the split val that its runs need.

    Args:
        words: options of ``sidetune-run`` with ranges or lists of values.
        first_tasks: number of tasks to train; None for all.
        trust_local_code: a spec may name code to import.

    Raises:
        SidetuneError: a component or an option does not exist, an end of a range is not valid, nothing is
            searched, or the tasks have no split val that options could be selected on.
    """
    axes, grid = _read(words, trust_local_code)
    combinations, switches = _combinations(axes, grid)
    if not any(one.components or one.searched for one in combinations):
        raise OptionError(
            "nothing is searched: give an option a range or several values, such as --train.lr 1e-4..1e-2:log"
        )
    selection, notes = Selection("val", first_tasks), list[str]()
    facts_of: Callable[..., Any] = resolve_name("sidetune_core.assembly.selected:task_facts")
    first = _resolved(grid, combinations[0], _lowest(combinations[0]), switches)
    try:
        facts = facts_of(first, selection)
    except MissingSplit as error:
        if not error.can_hold_out or VAL_FRACTION in axes:
            raise
        combinations = [
            attrs.evolve(one, axes={**one.axes, VAL_FRACTION: Fixed((HELD_OUT,))}) for one in combinations
        ]
        notes.append(
            f"--{VAL_FRACTION} {HELD_OUT} holds out a tenth of the training examples as split val; pass "
            "another fraction to change that"
        )
        first = _resolved(grid, combinations[0], _lowest(combinations[0]), switches)
        facts = facts_of(first, selection)
    _check_all(grid, combinations, switches)
    _check_one_unit(facts.metrics, facts.higher_is_better)
    return Space(
        tuple(combinations),
        tuple(grid.argv or ()),
        frozenset(switches),
        facts.count,
        facts.metrics[0],
        facts.higher_is_better[0],
        (*notes, *_left_out(axes, combinations)),
    )


def as_text(value: Value) -> str:
    """A value as it is typed."""
    return repr(value) if isinstance(value, float) else str(value)


def _read(words: Sequence[str], trust_local_code: bool) -> tuple[dict[str, Axis], Grid]:
    """The options of a command line, and a grid without lists that resolves them."""
    axes: dict[str, Axis] = {}
    for argument in split_arguments(words):
        name = argument.name
        if name != "spec" and not is_axis(name):
            known = [f"--{axis}" for axis in (*DEFAULTS, *OF_SPEC, "spec")]
            hint = hint_for(argument, known)
            raise OptionError(
                f"sidetune tune does not know '{argument.typed or argument.values[0]}'.{hint} "
                "See sidetune tune --help"
            )
        if name in axes:
            raise OptionError(f"--{name} is given twice; give its values in one list: --{name} A,B")
        axes[name] = ranges.parse_axis(name, argument.values)
    for name in ("seed", "scenario", "env", "spec"):
        if not isinstance(axes.get(name, Fixed(())), Fixed):
            why = {
                "seed": "the trials of a search have one seed",
                "scenario": "trials are compared in one scenario",
                "env": "trials are compared on the same tasks",
                "spec": "trials start from one spec",
            }[name]
            raise OptionError(f"--{name} {axes[name]}: {why}; give one value")
    spec = axes.pop("spec", None)
    if not isinstance(spec, Fixed):
        return axes, Grid({}, RunSpec(trust_local_code=trust_local_code), ())
    if len(spec.words) != 1:
        raise OptionError("--spec names one file")
    trusted = ("--trust-local-code",) if trust_local_code else ()
    read = read_spec(Path(spec.words[0]), trust_local_code)
    return axes, Grid({}, read, ("--spec", spec.words[0], *trusted))


def _combinations(axes: Mapping[str, Axis], grid: Grid) -> tuple[list[Combination], set[str]]:
    """All combinations of the components that are searched, and the switches among the options."""
    slots = {name: axis for name, axis in axes.items() if name in DEFAULTS and isinstance(axis, Choices)}
    for name, axis in axes.items():
        if name in DEFAULTS and isinstance(axis, Range):
            raise OptionError(f"--{name} {axis}: a component is chosen by its name; give names, as in A,B")
    combinations, switches, users = list[Combination](), set[str](), dict[str, int]()
    for names in itertools.product(*(axis.values for axis in slots.values())):
        components = dict(zip(slots, map(str, names), strict=True))
        firsts = {name: _first(axis) for name, axis in axes.items()}
        point = firsts | {slot: (name,) for slot, name in components.items()}
        used = split_applicable(grid, point).point
        spellings = _spellings(grid, used)
        own: dict[str, Axis] = {}
        for name in axes:
            if name not in used:
                continue
            users[name] = users.get(name, 0) + 1
            own[name] = _typed(name, axes[name], spellings)
            if _is_switch(name, spellings) and not isinstance(own[name], Fixed):
                switches.add(name)
        kept = {slot: name for slot, name in components.items() if slot in used}
        made = Combination(kept, own, "")
        if all(one.components != made.components for one in combinations):
            made = attrs.evolve(made, composition=str(_resolved(grid, made, _lowest(made), switches)))
            combinations.append(made)
    for name in axes:
        if not users.get(name):  # raises the error of an option that nothing uses
            point = {other: _first(axis) for other, axis in axes.items()}
            resolve_point(grid, {other: value for other, value in point.items() if other != "seed"})
    return combinations, switches


def _spellings(grid: Grid, point: Mapping[str, Any]) -> Spellings:
    spec = with_names(grid.base, component_names(grid, point), grid.file)
    configs = {slot: cls.Config for slot, (_, cls) in load_components(spec).items()}
    return make_spellings({**configs, **TABLES})


def _typed(name: str, axis: Axis, spellings: Spellings) -> Axis:
    """An axis as its option takes it."""
    renamed = spellings.former.get(name)
    info = spellings.options.get(renamed.to if renamed is not None else name)
    return axis if info is None else ranges.for_option(axis, name, alternatives(info.hint), info.type)


def _is_switch(name: str, spellings: Spellings) -> bool:
    info = spellings.options.get(name)
    return info is not None and info.type == "bool"


def _first(axis: Axis) -> tuple[str, ...]:
    return axis.words if isinstance(axis, Fixed) else (as_text(axis.ends[0]),)


def _lowest(combination: Combination) -> dict[str, Value]:
    """The first value of each searched option."""
    chosen: dict[str, Value] = dict(combination.components)
    return chosen | {name: axis.ends[0] for name, axis in combination.searched.items()}  # type: ignore[union-attr]


def _resolved(grid: Grid, combination: Combination, params: Params, switches: set[str]) -> ResolvedRun:
    """The run of some params, which need not be settled."""
    space = Space((combination,), tuple(grid.argv or ()), frozenset(switches), 1, "", True)
    resolved = argv.parse(space.words(params)).resolved
    assert resolved is not None  # --resume is no axis
    return resolved


def _check_all(grid: Grid, combinations: Sequence[Combination], switches: set[str]) -> None:
    """Resolve the ends of each range and each value of each list, one option at a time."""
    for one in combinations:
        lowest = _lowest(one)
        for name, axis in one.searched.items():
            assert not isinstance(axis, Fixed)
            for value in axis.ends[1:]:
                _resolved(grid, one, {**lowest, name: value}, switches)


def _check_one_unit(metrics: Sequence[str], higher: Sequence[bool]) -> None:
    """Raise the error of tasks whose metrics cannot be averaged: there is no objective then."""
    if not have_one_unit(metrics) or len(set(higher)) > 1:
        listed = ", ".join(dict.fromkeys(metrics))
        raise OptionError(
            f"the metrics of {len(metrics)} tasks ({listed}) have no common unit, so trials cannot be "
            "compared by their mean: select on one task, --first-tasks 1"
        )


def _left_out(axes: Mapping[str, Axis], combinations: Sequence[Combination]) -> list[str]:
    """Notes about options that some combinations do not use."""
    notes = []
    for name in axes:
        without = [", ".join(one.components.values()) for one in combinations if name not in one.axes]
        if without:
            notes.append(f"--{name} is left out of runs that do not use it: {'; '.join(without)}")
    return notes


def _values(axis: Axis) -> Sequence[Value]:
    values = axis.values if isinstance(axis, Range | Choices) else None
    if values is None:
        raise OptionError(
            f"a grid has finitely many points: give {axis} a number of values, as in {axis}:5, or choose "
            "--sampler random"
        )
    return values


def _product(axes: Sequence[Axis]) -> float:
    counts = [
        math.inf if isinstance(axis, Range) and axis.values is None else len(_values(axis)) for axis in axes
    ]
    return math.prod(counts)
