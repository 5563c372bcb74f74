"""A grid of runs: lists of components, options and seeds, and the run at each of its points.

On the command line a list has commas or is a range of integers (``--seed 0..4``); a value that has a comma
itself is enclosed in double quotes, as in a CSV file. In a file, a grid is a spec with a table ``[grid]`` of
lists, in which a component can have options of its own:

    env = "icifar"
    train = { lr = 1e-3 }

    [grid]
    learner = ["sidetune", "finetune", { name = "ewc", coef = 10.0 }]
    seed = [0, 1, 2]

A component or an option that a run does not use is left out of it, so that methods of several kinds fit into
one grid; if no run uses it, that is an error. Points that resolve to the same run are run once.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import attrs

from sidetune_core.config import argv
from sidetune_core.config.arguments import make_spellings, split_arguments
from sidetune_core.config.argv_mistakes import hint_for
from sidetune_core.config.argv_names import with_names
from sidetune_core.config.argv_options import OF_SPEC
from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.defaults import DEFAULTS, default_name
from sidetune_core.config.differences import merged, unflatten
from sidetune_core.config.option_tables import TABLES, respell_tables
from sidetune_core.config.resolve import ResolvedRun, load_components, resolve, usable
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values, read_spec, read_values
from sidetune_core.errors import OptionError, suggest

_OPTIONAL = ("base", "side", "merger")  # slots that a learner may not use
MAX_RUNS = 100_000
"""Points of a grid."""

_MAX_NAME_BYTES = 200  # of a folder; file systems allow 255

Point = Mapping[str, Any]
"""Names without ``--`` ("learner", "learner.coef", "train.lr", "seed", "scenario") and values: argv words (a
tuple) or plain values."""


@attrs.frozen
class Grid:
    """Lists of values, and the spec that all runs share."""

    axes: Mapping[str, Sequence[Any]]
    base: RunSpec
    argv: Sequence[str] | None
    """The arguments that give `base`, of a grid from the command line. None where values are plain."""
    file: str = ""
    """The file of the axes, which can name no code to import; empty for words that the user typed."""

    def points(self) -> Iterator[Point]:
        """All combinations, the last axis fastest."""
        for values in itertools.product(*self.axes.values()):
            point: dict[str, Any] = {}
            for name, value in zip(self.axes, values, strict=True):
                if self.argv is None and name in DEFAULTS and isinstance(value, Mapping):
                    point |= _component_options(name, value)
                else:
                    point[name] = value
            yield point


@attrs.frozen
class PlannedRun:
    """A run of a plan: its name, a one-line description, and its spec with every name and option written
    out."""

    name: str
    composition: str
    spec: dict[str, Any]


@attrs.frozen
class Plan:
    """The runs that a grid resolves to, and notes about options that were left out."""

    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()


def read(words: Sequence[str], trust_local_code: bool = False) -> Grid:
    """A grid from a command line: the name of a file, or the options of ``sidetune-run`` with lists as
    values.

    Args:
        words: the command line.
        trust_local_code: a file may name code to import.

    Raises:
        OptionError: it is neither, or a list is empty.
    """
    if not words:
        raise OptionError(
            "nothing is given to sweep: name a grid file, or options with lists as values, such as "
            "sidetune sweep --env digits --learner sidetune,finetune --seed 0..2"
        )
    if not words[0].startswith("--"):
        if len(words) > 1:
            raise OptionError(
                f"a grid comes from a file or from options, not from both: {words[0]} and {words[1]}"
            )
        return _read_file(Path(words[0]), trust_local_code)
    axes: dict[str, Sequence[Any]] = {}
    for argument in split_arguments(words):
        name, values = argument.name, argument.values
        if name != "spec" and not is_axis(name):
            known = [f"--{axis}" for axis in (*DEFAULTS, *OF_SPEC, "spec")]
            hint = hint_for(argument, known)
            raise OptionError(
                f"sidetune sweep does not know '{argument.typed}'.{hint} See sidetune sweep --help"
            )
        if name in axes:
            raise OptionError(f"--{name} is given twice; give its values in one list: --{name} A,B")
        axes[name] = [values] if len(values) != 1 else [(value,) for value in list_values(name, values[0])]
    spec = axes.pop("spec", None)
    if spec is None:
        return Grid(axes, RunSpec(trust_local_code=trust_local_code), ())
    if len(spec) > 1 or len(spec[0]) != 1:
        raise OptionError("--spec names one file; to vary its values, give lists of components and options")
    trusted = ("--trust-local-code",) if trust_local_code else ()
    return Grid(axes, read_spec(Path(spec[0][0]), trust_local_code), ("--spec", spec[0][0], *trusted))


@attrs.frozen
class Applicable:
    """The part of a point that its run uses."""

    point: Point
    left_out: Mapping[str, str]
    """By name, the component that does not use it."""


def plan(grid: Grid) -> Plan:
    """Resolve every point of a grid, and check that its components fit together; nothing is run.

    Raises:
        SidetuneError: a component or an option does not exist, is invalid, or is not used anywhere in the
        grid.
    """
    count = math.prod(len(values) for values in grid.axes.values())
    if count > MAX_RUNS:
        raise OptionError(f"the grid has {count:.3g} points; a sweep has at most {MAX_RUNS:,}")
    points = list(grid.points())
    applicable: dict[str, Applicable] = {}  # by everything but the seed, since resolving takes time
    for point in points:
        key = _without_seed(point)
        if key not in applicable:
            applicable[key] = split_applicable(grid, point)
    _check_uses(grid, points, [applicable[_without_seed(point)].left_out for point in points])
    settled = make_settled()
    resolved = {key: settled(resolve_point(grid, split.point)) for key, split in applicable.items()}
    varied = _varied_names(grid, points)
    users: dict[str, dict[str, None]] = {}
    runs: dict[str, PlannedRun] = {}
    for point in points:
        key = _without_seed(point)
        left_out = applicable[key].left_out
        name = run_name({axis: point[axis] for axis in varied if axis in point and axis not in left_out})
        run = planned(name, attrs.evolve(resolved[key], seed=_seed(grid, point)))
        runs.setdefault(json.dumps(run.spec, sort_keys=True), run)
        for axis, owner in left_out.items():
            users.setdefault(axis, {})[owner] = None
    notes = [
        f"--{axis} is left out of runs that do not use it: {', '.join(owners)}"
        for axis, owners in users.items()
    ]
    if len(runs) < len(points):
        notes.append(f"{len(points)} grid points resolve to {len(runs)} distinct runs")
    return Plan(tuple(runs.values()), tuple(notes))


def _varied_names(grid: Grid, points: Sequence[Point]) -> list[str]:
    """The names whose values differ between points, in the order of the axes."""
    order = {name: index for index, name in enumerate(grid.axes)}
    names = sorted(
        dict.fromkeys(itertools.chain(*points)),
        key=lambda name: order.get(name, order.get(name.partition(".")[0], 0)),
    )
    return [name for name in names if len({str(point.get(name)) for point in points}) > 1]


def make_settled() -> Callable[[ResolvedRun], ResolvedRun]:
    """`assembly.dry_run.side_chooser`, which builds networks: imported by name, since plans that other
    processes made are carried out without torch."""
    chooser: Callable[[], Callable[[ResolvedRun], ResolvedRun]] = resolve_name(
        "sidetune_core.assembly.dry_run:side_chooser"
    )
    return chooser()


def planned(name: str, resolved: ResolvedRun) -> PlannedRun:
    """A run of a plan; its spec is as in ``run.json``."""
    return PlannedRun(name, str(resolved), json.loads(json.dumps(resolved.to_spec().to_json())))


def run_name(values: Point) -> str:
    """The folder name of a run from the values that vary: ``learner-ewc_seed-3``.

    A value that is no valid part of a name, such as a path, is followed by a digest, which makes the name
    unique.
    """
    name = "_".join(f"{option}-{_slug(value)}" for option, value in values.items()) or "run"
    return (
        name if len(name.encode()) <= _MAX_NAME_BYTES else f"{name[: _MAX_NAME_BYTES - 60]}-{_digest(name)}"
    )


def list_values(name: str, text: str) -> list[str]:
    """The entries of ``a,b`` and ``0..4``."""
    try:
        (items,) = csv.reader([text], strict=True, skipinitialspace=True)
    except (csv.Error, ValueError) as error:
        raise OptionError(f"--{name} {text}: expected values separated by commas") from error
    values: list[str] = []
    for item in items:
        if match := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", item):
            if len(match[1]) + len(match[2]) > 40 or int(match[2]) - int(match[1]) >= MAX_RUNS:
                raise OptionError(f"--{name} {text[:60]}: a range of more than {MAX_RUNS:,} values")
            values += map(str, range(int(match[1]), int(match[2]) + 1))
        else:
            values.append(item)
    if not values or "" in values:
        raise OptionError(f"--{name} {text}: a value of the list is empty")
    return values


def _read_file(path: Path, trust_local_code: bool) -> Grid:
    values = read_values(path)
    if not (isinstance(values, dict) and isinstance(values.get("grid"), Mapping)):
        raise OptionError(f"{path} has no table [grid] with lists of components, options and seeds")
    axes = _axes(values.pop("grid"), path)
    base = from_values(values, str(path), trust_local_code=trust_local_code)
    return Grid(axes, base, None, "" if trust_local_code else str(path))


def _axes(table: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, Sequence[Any]]:
    """The lists of a table; ``train.lr`` may be written as one key or as nested tables."""
    axes: dict[str, Sequence[Any]] = {}
    for key, value in table.items():
        name = (prefix + key).replace("_", "-")
        if isinstance(value, Mapping):
            axes |= _axes(value, path, f"{name}.")
        elif not isinstance(value, list) or not value:
            raise OptionError(f"{path}: '{name}' of [grid] is a list of values, not {value!r}")
        elif not is_axis(name):
            raise OptionError(f"{path}: [grid] knows no '{name}'.{suggest(name, [*DEFAULTS, *OF_SPEC])}")
        else:
            axes[name] = value
    return axes


def is_axis(name: str) -> bool:
    """Whether a name is that of a component, of an option of one or of a table, the seed or the scenario."""
    slot, dot, _ = name.partition(".")
    return name in (*DEFAULTS, *OF_SPEC) or (bool(dot) and slot in (*DEFAULTS, *TABLES))


def _component_options(slot: str, component: Mapping[str, Any]) -> dict[str, Any]:
    """``{name = "ewc", coef = 10.0}`` as a name and options."""
    chosen = choice(component)
    assert chosen is not None
    options = {f"{slot}.{name.replace('_', '-')}": value for name, value in chosen.options.items()}
    return {slot: chosen.name, **options}


def _check_uses(grid: Grid, points: Sequence[Point], left_out: Sequence[Mapping[str, str]]) -> None:
    """Raise the error of a component or an option that no point uses."""
    for name in dict.fromkeys(itertools.chain(*points)):
        uses = [name in unused for point, unused in zip(points, left_out, strict=True) if name in point]
        if all(uses):
            resolve_point(grid, next(point for point in points if name in point))


def _without_seed(point: Point) -> str:
    return repr([(name, value) for name, value in point.items() if name != "seed"])


def _seed(grid: Grid, point: Point) -> int:
    value = point.get("seed", grid.base.seed)
    if isinstance(value, tuple) and len(value) == 1 and re.fullmatch(r"-?\d+", value[0]):
        return int(value[0])
    if not isinstance(value, int) or isinstance(value, bool):
        shown = " ".join(value) if isinstance(value, tuple) else value
        raise OptionError(f"a seed is a whole number; got {shown!r}")
    return value


def split_applicable(grid: Grid, point: Point) -> Applicable:
    """Split a grid point into applicable options and ignored ones."""
    names = {name: value for name, value in point.items() if name == "learner"}
    spec = with_names(grid.base, component_names(grid, names), grid.file)
    used = usable(spec)
    learner = _owner(spec, "learner")
    left_out: dict[str, str] = {}
    for name in point:
        slot = name.partition(".")[0]
        if slot in _OPTIONAL and slot not in used:
            left_out[name] = learner
    kept = {name: value for name, value in point.items() if name not in left_out}
    spec = with_names(grid.base, component_names(grid, kept), grid.file)
    configs = {slot: cls.Config for slot, (_, cls) in load_components(spec).items()}
    spellings = make_spellings({**configs, **TABLES})
    for name in list(kept):
        slot, dot, _ = name.partition(".")
        if dot and name not in spellings:
            left_out[name] = _owner(spec, slot) if slot in configs else learner
            del kept[name]
    return Applicable(kept, left_out)


def _owner(spec: RunSpec, slot: str) -> str:
    chosen = spec.component(slot)
    return f"{slot} '{chosen.name if chosen else default_name(slot)}'"


def component_names(grid: Grid, point: Point) -> dict[str, str]:
    """The names of components in a point, by slot."""
    names = {slot: value for slot, value in point.items() if slot in DEFAULTS}
    for slot, value in names.items():
        if grid.argv is not None and len(value) == 1:
            names[slot] = value[0]
        elif not isinstance(value, str):
            names_typed = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
            listed = f"; several are one list: --{slot} {','.join(value)}" if names_typed and value else ""
            raise OptionError(f"a {slot} is chosen by its name; got {value!r}{listed}")
    return names


def resolve_point(grid: Grid, point: Point) -> ResolvedRun:
    """The run at a point, apart from its seed."""
    if grid.argv is not None:
        words = [word for name, value in point.items() if name != "seed" for word in (f"--{name}", *value)]
        resolved = argv.parse([*grid.argv, *words]).resolved
        assert resolved is not None  # --resume is no axis
        return resolved
    spec = with_names(grid.base, component_names(grid, point), grid.file)
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    for name, value in point.items():
        slot, _, option = name.replace("-", "_").partition(".")
        if slot in TABLES:
            tables[slot][option] = value
        elif option:
            chosen = spec.component(slot) or Choice(DEFAULTS[slot], file=grid.file)
            options = merged(chosen.options, unflatten({option: value}))
            spec = spec.with_components({slot: attrs.evolve(chosen, options=options)})
    if "train.steps" in point and "train.epochs" not in point:
        tables["train"]["epochs"] = None
    respelled = respell_tables(tables)
    changed: dict[str, Any] = {table: {**getattr(spec, table), **respelled[table]} for table in TABLES}
    return resolve(attrs.evolve(spec, **changed, scenario=point.get("scenario", spec.scenario)))


def _slug(value: Any) -> str:
    if isinstance(value, tuple):
        text = " ".join(value)
    else:
        text = json.dumps(value) if isinstance(value, bool | int | float | list) else str(value)
    slug = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")
    return slug if slug == text else f"{slug}-{_digest(text)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
