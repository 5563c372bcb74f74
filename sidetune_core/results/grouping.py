"""Which runs are seeds of one method, and what to call a method among others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.spec import RunSpec
from sidetune_core.results.report import RunSummary

_SLOTS = ("learner", "merger", "side", "base", "env")  # in the order of a name

Traits = Mapping[str, Any]  # "learner": "ewc", "learner.coef": 1.0, "train.lr": 0.001


@attrs.frozen
class MethodRuns:
    """One composition, run with one seed or several."""

    name: str  # what tells it from the others: "ewc · fisher legacy"
    runs: tuple[RunSummary, ...]  # one for each seed, the first that was given
    repeats: tuple[RunSummary, ...]  # further runs of the same seeds, which say nothing new


def group_runs(summaries: Iterable[RunSummary]) -> list[MethodRuns]:
    """The methods in the order of their first runs; runs that differ in the seed or in where they ran are one method."""
    groups: dict[str, list[RunSummary]] = {}
    for summary in summaries:
        groups.setdefault(json.dumps(_traits(summary.spec), sort_keys=True, default=str), []).append(summary)
    methods = []
    for name, runs in zip(
        _names([_traits(runs[0].spec) for runs in groups.values()]), groups.values(), strict=True
    ):
        first: dict[int, RunSummary] = {}
        for run in runs:
            first.setdefault(run.spec.seed, run)
        repeats = tuple(run for run in runs if first[run.spec.seed] is not run)
        methods.append(MethodRuns(name, tuple(first[seed] for seed in sorted(first)), repeats))
    return methods


def shared_line(methods: Sequence[MethodRuns]) -> str:
    """What the names leave out because all methods have it: "icifar · resnet44 + fcn4 · 10 tasks"."""
    runs = [method.runs[0] for method in methods]
    traits = [_traits(run.spec) for run in runs]
    names = {slot: _only(one.get(slot) for one in traits) for slot in _SLOTS}
    env, base, side, merger = (
        (names[slot] or "").rpartition("/")[2] for slot in ("env", "base", "side", "merger")
    )
    tasks = _only(len(run.results.tasks) for run in runs)
    return " · ".join(
        filter(None, [env, " + ".join(filter(None, [base, side])), merger, f"{tasks} tasks" if tasks else ""])
    )


def same_stream(summaries: Iterable[RunSummary]) -> bool:
    """Whether all runs were measured by the same metric on the same tasks of the same env, so that figures may be ranked."""
    return (
        _only((s.spec.env, s.results.tasks, s.results.metric, s.results.higher_is_better) for s in summaries)
        is not None
    )


def same_method(one: RunSpec, other: RunSpec) -> bool:
    """Whether two resolved specs differ in nothing but the seed and where they are run."""
    return _traits(one) == _traits(other)


def _only(values: Iterable[Any]) -> Any:
    """The one value, if all are equal; else None."""
    first, *others = values
    return first if all(other == first for other in others) else None


def _traits(spec: RunSpec) -> Traits:
    """Everything that makes a method, by name."""
    traits: dict[str, Any] = {}
    for slot in _SLOTS:
        part = spec.component(slot)
        if part is not None:
            traits[slot] = part.name
            traits.update({f"{slot}.{name}": value for name, value in part.options.items()})
    # the tables 'cache' and 'device' say where a run computes: they are no trait of a method
    return traits | {f"train.{name}": value for name, value in spec.train.items()}


def _names(methods: Sequence[Traits]) -> list[str]:
    """A name for each that no other has; only where need be, it tells that a run was made before an option existed."""
    names = _named(methods, absence=False)
    return names if len(set(names)) == len(names) else _named(methods, absence=True)


def _named(methods: Sequence[Traits], absence: bool) -> list[str]:
    """The learner of each, then what differs: parts, then options of parts that several have, then those of training."""
    keys = {key: None for traits in methods for key in traits}
    slots = [slot for slot in _SLOTS if slot == "learner" or _part_differs(slot, methods)]
    options = [key for key in keys if "." in key and _option_differs(key, methods, absence)]
    ambiguous = {
        name for name, count in Counter(key.partition(".")[2] for key in options).items() if count > 1
    }
    known = {slot: {traits[slot] for traits in methods if slot in traits} for slot in slots}
    names = []
    for traits in methods:
        words = [_short(traits[slot], known[slot]) for slot in slots if slot in traits]
        for key in (key for key in options if key in traits):
            name = key if key.partition(".")[2] in ambiguous else key.partition(".")[2]
            words.append(f"{name.replace('_', '-')} {_written(traits[key])}")
        names.append(" · ".join(words))
    return names


def _part_differs(slot: str, methods: Sequence[Traits]) -> bool:
    """Whether two have different parts there, or one learner is there with and without: else the learner says it all."""
    found = {(traits["learner"], traits.get(slot)) for traits in methods}
    return len({part for _, part in found if part}) > 1 or len(found) > len({learner for learner, _ in found})


def _option_differs(key: str, methods: Sequence[Traits], absence: bool) -> bool:
    """Whether methods that have the part of an option in common have different values of it; `absence` of it may be one."""
    slot = key.partition(".")[0]
    values: dict[Any, list[Any]] = {}
    for traits in methods:
        if key in traits or (absence and (slot in traits or slot == "train")):
            values.setdefault(traits.get(slot), []).append(traits.get(key, ...))
    return any(value != first for first, *others in values.values() for value in others)


def _short(name: str, known: set[str]) -> str:
    """Without the package that a part is from, unless that tells two of the same name apart."""
    short = name.rpartition("/")[2]
    return short if [other.rpartition("/")[2] for other in known].count(short) == 1 else name


def _written(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
