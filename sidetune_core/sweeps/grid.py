"""A grid of runs: lists of parts, options and seeds, and the composition at each of its points.

On the command line a list has commas or is a range of whole numbers (``--seed 0..4``); a value that has a comma itself stands in
double quotes, as in a CSV file. In a file a grid is a spec with one more table, whose values are lists, and a part may stand there
with options of its own:

    env = "icifar"
    train = { lr = 1e-3 }

    [grid]
    learner = ["sidetune", "finetune", { name = "ewc", coef = 10.0 }]
    seed = [0, 1, 2]

A part or an option that a composition has no use for is left out of it, so that methods of several kinds fit into one grid; what no
composition has a use for is a mistake. Points that come to the same composition are one run.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.config import argv
from sidetune_core.config.resolve import ResolvedRun, load_components, resolve, usable
from sidetune_core.config.spec import (
    DEFAULTS,
    Choice,
    RunSpec,
    TrainOptions,
    choice,
    from_values,
    read_spec,
    read_values,
)
from sidetune_core.errors import OptionError, suggest

_OPTIONAL = ("base", "side", "merger")  # slots that a learner may have no use for
_LONGEST = 200  # bytes of a folder's name, of the 255 that file systems allow

Point = Mapping[str, Any]
"""Names without ``--`` ("learner", "learner.coef", "train.lr", "seed") and their values: words (a tuple) or plain values."""


@attrs.frozen
class Grid:
    """Lists of values, and what all runs have in common."""

    axes: Mapping[str, Sequence[Any]]
    base: RunSpec
    words: Sequence[str] | None
    """Of a grid from the command line: what names `base` there. None where values are plain."""

    def points(self) -> Iterator[Point]:
        """All combinations, the last axis fastest."""
        for values in itertools.product(*self.axes.values()):
            point: dict[str, Any] = {}
            for name, value in zip(self.axes, values, strict=True):
                if self.words is None and name in DEFAULTS and isinstance(value, Mapping):
                    point |= _flat(name, value)
                else:
                    point[name] = value
            yield point


@attrs.frozen
class PlannedRun:
    """A run of a plan: what it is called, how it is composed, and its spec with every name and option written out."""

    name: str
    composition: str
    spec: dict[str, Any]


@attrs.frozen
class Plan:
    """The runs that a grid comes to, and what was left out on the way."""

    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()


def read(words: Sequence[str]) -> Grid:
    """A grid from the words of a command line: the name of a file, or the options of ``sidetune-run`` with lists as values.

    Raises:
        OptionError: they are neither, or a list is empty.
    """
    if words and not words[0].startswith("--"):
        if len(words) > 1:
            raise OptionError(
                f"a grid comes from a file or from options, not from both: {words[0]} and {words[1]}"
            )
        return _read_file(Path(words[0]))
    axes: dict[str, Sequence[Any]] = {}
    for name, values in _options(words):
        if name in axes:
            raise OptionError(f"--{name} is given twice; give its values in one list: --{name} A,B")
        axes[name] = [tuple(values)] if len(values) != 1 else [(value,) for value in _values(name, values[0])]
    spec = axes.pop("spec", None)
    if spec is None:
        return Grid(axes, RunSpec(), ())
    if len(spec) > 1 or len(spec[0]) != 1:
        raise OptionError("--spec names one file; to vary what is in it, give lists of parts and options")
    return Grid(axes, read_spec(Path(spec[0][0])), ("--spec", spec[0][0]))


def plan(grid: Grid) -> Plan:
    """Compose every point of a grid; nothing is run.

    Raises:
        SidetuneError: a part or an option does not exist, does not hold, or has no use anywhere in the grid.
    """
    points = list(grid.points())
    fits: dict[
        str, tuple[Point, Mapping[str, str]]
    ] = {}  # of points but for their seeds, since composing takes its time
    for point in points:
        if (key := _but_seed(point)) not in fits:
            fits[key] = _fit(grid, point)
    _check_uses(grid, points, [fits[_but_seed(point)][1] for point in points])
    compositions = {key: resolve(_spec(grid, kept)) for key, (kept, _) in fits.items()}
    place = {name: number for number, name in enumerate(grid.axes)}
    named = sorted(
        dict.fromkeys(itertools.chain(*points)),
        key=lambda name: place.get(name, place.get(name.partition(".")[0], 0)),
    )
    varied = [name for name in named if len({str(point.get(name)) for point in points}) > 1]
    owners: dict[str, dict[str, None]] = {}
    runs: dict[str, PlannedRun] = {}
    for point in points:
        key = _but_seed(point)
        _, left_out = fits[key]
        name = run_name({one: point[one] for one in varied if one in point and one not in left_out})
        run = planned(name, attrs.evolve(compositions[key], seed=_seed(grid, point)))
        runs.setdefault(json.dumps(run.spec, sort_keys=True), run)
        for one, owner in left_out.items():
            owners.setdefault(one, {})[owner] = None
    notes = [f"--{one} is left out where it has no use: {', '.join(there)}" for one, there in owners.items()]
    if len(runs) < len(points):
        notes.append(f"{len(points)} points of the grid are {len(runs)} runs, each of which is run once")
    return Plan(tuple(runs.values()), tuple(notes))


def planned(name: str, composition: ResolvedRun) -> PlannedRun:
    """A run of a plan; its spec is as ``run.json`` will hold it."""
    return PlannedRun(name, str(composition), json.loads(json.dumps(composition.to_spec().to_json())))


def run_name(values: Point) -> str:
    """A folder's name for what varies: ``learner-ewc_seed-3``.

    A value that cannot be part of a name as it is, such as a path, gets a digest, which tells it from others.
    """
    name = "_".join(f"{option}-{_slug(value)}" for option, value in values.items()) or "run"
    return name if len(name.encode()) <= _LONGEST else f"{name[: _LONGEST - 60]}-{_digest(name)}"


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """``--NAME VALUE …`` and ``--NAME=VALUE`` as names and values."""
    known = [f"--{name}" for name in (*DEFAULTS, "seed", "spec")]
    at = 0
    while at < len(words):
        head, equals, value = words[at].partition("=")
        end = next(
            (place for place in range(at + 1, len(words)) if words[place].startswith("--")), len(words)
        )
        name = head.removeprefix("--").replace("_", "-")
        if name != "spec" and not _is_axis(name):
            raise OptionError(
                f"sidetune sweep does not know '{head}'.{suggest(head, known)} See sidetune sweep --help"
            )
        yield name, [*([value] if equals else []), *words[at + 1 : end]]
        at = end


def _values(name: str, text: str) -> list[str]:
    """``a,b`` and ``0..4`` as lists."""
    try:
        (items,) = csv.reader([text], strict=True, skipinitialspace=True)
    except (csv.Error, ValueError) as error:
        raise OptionError(f"--{name} {text}: not a list of values with commas between them") from error
    values: list[str] = []
    for item in items:
        if match := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", item):
            values += map(str, range(int(match[1]), int(match[2]) + 1))
        else:
            values.append(item)
    if not values or "" in values:
        raise OptionError(f"--{name} {text}: a value of the list is empty")
    return values


def _read_file(path: Path) -> Grid:
    values = read_values(path)
    if not (isinstance(values, dict) and isinstance(values.get("grid"), Mapping)):
        raise OptionError(f"{path} has no table [grid] with lists of parts, options and seeds")
    axes = _axes(values.pop("grid"), path)
    return Grid(axes, from_values(values, str(path)), None)


def _axes(table: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, Sequence[Any]]:
    """The lists of a table; ``train.lr`` may be written as one key or as a table in a table."""
    axes: dict[str, Sequence[Any]] = {}
    for key, value in table.items():
        name = (prefix + key).replace("_", "-")
        if isinstance(value, Mapping):
            axes |= _axes(value, path, f"{name}.")
        elif not isinstance(value, list) or not value:
            raise OptionError(f"{path}: '{name}' of [grid] is a list of values, not {value!r}")
        elif not _is_axis(name):
            raise OptionError(f"{path}: [grid] knows no '{name}'.{suggest(name, [*DEFAULTS, 'seed'])}")
        else:
            axes[name] = value
    return axes


def _is_axis(name: str) -> bool:
    slot, dot, _ = name.partition(".")
    return name in (*DEFAULTS, "seed") or (bool(dot) and slot in (*DEFAULTS, "train"))


def _flat(slot: str, component: Mapping[str, Any]) -> dict[str, Any]:
    """``{name = "ewc", coef = 10.0}`` as a name and options."""
    chosen = choice(component)
    assert chosen is not None
    return {
        slot: chosen.name,
        **{f"{slot}.{name.replace('_', '-')}": value for name, value in chosen.options.items()},
    }


def _check_uses(grid: Grid, points: Sequence[Point], left_out: Sequence[Mapping[str, str]]) -> None:
    """Raise what is wrong with a part or an option that is of no use at any point."""
    for name in dict.fromkeys(itertools.chain(*points)):
        having = [point for point in points if name in point]
        if all(name in without for point, without in zip(points, left_out, strict=True) if name in point):
            resolve(_spec(grid, having[0]))


def _but_seed(point: Point) -> str:
    return repr([(name, value) for name, value in point.items() if name != "seed"])


def _seed(grid: Grid, point: Point) -> int:
    value = point.get("seed", grid.base.seed)
    if isinstance(value, tuple) and len(value) == 1 and re.fullmatch(r"-?\d+", value[0]):
        return int(value[0])
    if not isinstance(value, int) or isinstance(value, bool):
        raise OptionError(
            f"a seed is a whole number; got {value if not isinstance(value, tuple) else ' '.join(value)!r}"
        )
    return value


def _fit(grid: Grid, point: Point) -> tuple[Point, dict[str, str]]:
    """What of a point is of use, and what is not, with who has no use for it."""
    spec = argv.with_names(
        grid.base, _names(grid, {name: value for name, value in point.items() if name == "learner"})
    )
    uses = usable(spec)
    learner = f"learner '{spec.learner.name if spec.learner else DEFAULTS['learner']}'"
    left_out = {
        name: learner for name in point if (slot := name.partition(".")[0]) in _OPTIONAL and slot not in uses
    }
    kept = {name: value for name, value in point.items() if name not in left_out}
    spec = argv.with_names(grid.base, _names(grid, kept))
    configs: dict[str, Any] = {slot: cls.Config for slot, (_, cls) in load_components(spec).items()} | {
        "train": TrainOptions
    }
    for name in list(kept):
        slot, dot, option = name.partition(".")
        known = (
            {field.name.replace("_", "-") for field in attrs.fields(configs[slot])}
            if slot in configs
            else set()
        )
        if dot and option not in known | {f"no-{one}" for one in known}:
            chosen = spec.component(slot) if slot in DEFAULTS else None
            left_out[name] = (
                f"{slot} '{chosen.name if chosen else DEFAULTS[slot]}'"
                if slot in configs and slot != "train"
                else learner
            )
            del kept[name]
    return kept, left_out


def _names(grid: Grid, point: Point) -> dict[str, str]:
    """The parts that a point names."""
    names = {slot: value for slot, value in point.items() if slot in DEFAULTS}
    for slot, value in names.items():
        if grid.words is not None and len(value) == 1:
            names[slot] = value[0]
        elif not isinstance(value, str):
            raise OptionError(f"a {slot} is chosen by its name; got {value!r}")
    return names


def _spec(grid: Grid, point: Point) -> RunSpec:
    """The spec at a point, but for its seed."""
    if grid.words is not None:
        words = [word for name, value in point.items() if name != "seed" for word in (f"--{name}", *value)]
        return argv.parse([*grid.words, *words]).spec
    spec = argv.with_names(grid.base, _names(grid, point))
    train = dict(spec.train)
    for name, value in point.items():
        slot, _, option = name.replace("-", "_").partition(".")
        if slot == "train":
            train[option] = value
        elif option:
            there = spec.component(slot) or Choice(DEFAULTS[slot])
            spec = spec.with_components({slot: attrs.evolve(there, options={**there.options, option: value})})
    if "train.steps" in point and "train.epochs" not in point:
        train["epochs"] = None
    return attrs.evolve(spec, train=train)


def _slug(value: Any) -> str:
    words = (
        value
        if isinstance(value, tuple)
        else (json.dumps(value) if isinstance(value, bool | int | float | list) else str(value),)
    )
    text = " ".join(words)
    slug = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")
    return slug if slug == text else f"{slug}-{_digest(text)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
