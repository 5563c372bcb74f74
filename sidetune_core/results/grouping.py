"""Group runs into methods, and name each method by what distinguishes it from the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.differences import flatten
from sidetune_core.config.option_tables import MEASURES
from sidetune_core.config.resolve import with_present_names
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import shorten
from sidetune_core.results.run_data import Comparison, compare_data
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.scenarios import DEFAULT, title

_SLOTS = ("learner", "merger", "side", "base", "env")

EXTENDED = "env.extended"
"""The trait of runs to which tasks were added when they had finished."""

OTHER_DATA = "env.data"
"""The trait of runs of one env that had different data: the number of their group."""

SELECTION = "env.selection"
"""The trait of runs that measure R on split 'val', or train the first tasks of an env only."""

Traits = Mapping[str, Any]
"""E.g. ``{"learner": "ewc", "learner.coef": 1.0, "train.lr": 0.001}``."""


@attrs.frozen
class MethodRuns:
    """The runs of one composition with different seeds."""

    name: str
    """What distinguishes it from the other methods: "ewc · fisher legacy"."""
    runs: tuple[RunSummary, ...]
    """One for each seed, in the order of seeds."""
    repeats: tuple[RunSummary, ...]
    """Further runs with the same seeds; tables ignore them."""

    @property
    def averaged(self) -> tuple[RunSummary, ...]:
        """The runs that have not diverged: those of means and ranks."""
        return tuple(run for run in self.runs if not run.diverged)


def left_out(methods: Sequence[MethodRuns]) -> list[str]:
    """A line for each run that means and ranks leave out, with the reason."""
    return [
        f"Left out of means and ranks: {run.name} ({method.name}, seed {run.spec.seed}), {run.status}"
        for method in methods
        for run in method.runs
        if run.diverged
    ]


def in_present_names(summaries: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs, comparable where an earlier version recorded the options of some under other names."""
    specs = with_present_names([summary.spec for summary in summaries])
    return [attrs.evolve(summary, spec=spec) for summary, spec in zip(summaries, specs, strict=True)]


def group_runs(summaries: Iterable[RunSummary]) -> list[MethodRuns]:
    """The methods, in the order of their first runs. Runs of one method differ only in seed or device; runs
    on other data are other methods."""
    summaries = list(summaries)
    traits = [
        {**_traits_of(summary), **({OTHER_DATA: label} if label else {})}
        for summary, label in zip(summaries, data_labels(summaries), strict=True)
    ]
    keys = [json.dumps(trait, sort_keys=True, default=str) for trait in traits]
    groups: dict[str, list[RunSummary]] = {}
    for key, summary in zip(keys, summaries, strict=True):
        groups.setdefault(key, []).append(summary)
    names = _names([traits[keys.index(key)] for key in groups])
    methods = []
    for name, runs in zip(names, groups.values(), strict=True):
        first: dict[int, RunSummary] = {}
        for run in runs:
            first.setdefault(run.spec.seed, run)
        repeats = tuple(run for run in runs if first[run.spec.seed] is not run)
        methods.append(MethodRuns(name, tuple(first[seed] for seed in sorted(first)), repeats))
    return methods


def shared_line(methods: Sequence[MethodRuns]) -> str:
    """What all methods have in common: "icifar · task-incremental · resnet44 + fcn4 · 10 tasks"."""
    runs = [method.runs[0] for method in methods]
    traits = [_traits(run.spec) for run in runs]
    short: dict[str, str] = {}
    for slot in _SLOTS:
        name = _common(method.get(slot) for method in traits)
        short[slot] = (name or "").rpartition("/")[2]
    networks = " + ".join(filter(None, [short["base"], short["side"]]))
    tasks = _common(len(run.results.tasks) for run in runs)
    scenario = _common(run.spec.scenario for run in runs)
    return " · ".join(
        filter(
            None,
            [
                short["env"],
                title(scenario) if scenario else "",
                networks,
                short["merger"],
                f"{tasks} tasks" if tasks else "",
            ],
        )
    )


def same_stream(summaries: Iterable[RunSummary]) -> bool:
    """Whether all runs have the same env, data, tasks and metric, so that their results may be ranked."""
    summaries = list(summaries)
    streams = (
        (
            run.spec.scenario,
            run.spec.env,
            run.extensions,
            run.selection,
            run.results.tasks,
            run.results.metric,
            run.results.higher_is_better,
        )
        for run in summaries
    )
    return _common(streams) is not None and not any(data_labels(summaries))


def data_labels(summaries: Sequence[RunSummary]) -> list[str]:
    """For each run, the number of the group of runs that had its data, as "1"; empty where all runs of the
    same env had the same."""
    labels = [""] * len(summaries)
    for groups in _data_groups(summaries):
        for number, group in enumerate(groups if len(groups) > 1 else (), 1):
            for index in group:
                labels[index] = str(number)
    return labels


def data_lines(summaries: Sequence[RunSummary]) -> list[str]:
    """Which runs of the same env had different data, and of which it is unknown, in lines."""
    lines = []
    for groups in _data_groups(summaries):
        listed = [shorten([summaries[index].name for index in group], 5) for group in groups]
        if len(groups) > 1:
            lines.append(f"data differs: {' / '.join(listed)}")
        unsure = [
            summaries[index].name
            for group in groups
            for index in group
            if _compare(summaries[group[0]], summaries[index]) == "unknown"
        ]
        if unsure:
            lines.append(
                f"Whether {shorten(unsure, 5)} had the data of the other runs is unknown: the fingerprints "
                "differ, as they may where each seed draws its own examples."
            )
    return lines


def _data_groups(summaries: Sequence[RunSummary]) -> list[list[list[int]]]:
    """For each env with its options, the groups of runs that had the same data, by their numbers. A run of
    which it is unknown is in the first group that may have had its data."""
    by_env: dict[str, list[list[int]]] = {}
    known: dict[Any, list[int]] = {}  # groups by env and data: most runs are found here
    for index, summary in enumerate(summaries):
        traits = {key: value for key, value in _traits_of(summary).items() if key.partition(".")[0] == "env"}
        env = json.dumps(traits, sort_keys=True, default=str)
        groups = by_env.setdefault(env, [])
        if (env, summary.data) in known:
            known[env, summary.data].append(index)
            continue
        compared = [{_compare(summaries[other], summary) for other in group} for group in groups]
        group = next(
            (
                group
                for wanted in ("same", "unknown")
                for group, found in zip(groups, compared, strict=True)
                if wanted in found and (wanted == "same" or "other" not in found)
            ),
            None,
        )
        if group is None:
            groups.append(group := [])
        group.append(index)
        known[env, summary.data] = group
    return list(by_env.values())


def _compare(one: RunSummary, other: RunSummary) -> Comparison:
    return compare_data(one.data, other.data, one.spec.seed == other.spec.seed)


def same_method(one: RunSpec, other: RunSpec) -> bool:
    """Whether two resolved specs differ only in seed, device and cache."""
    return _traits(one) == _traits(other)


def _common(values: Iterable[Any]) -> Any:
    """The value that all have in common, or None."""
    first, *others = values
    return first if all(other == first for other in others) else None


def _traits(spec: RunSpec) -> Traits:
    """Everything that defines a method, by name."""
    traits: dict[str, Any] = {}
    for slot in _SLOTS:
        component = spec.component(slot)
        if component is not None:
            traits[slot] = component.name
            traits |= flatten(component.options, prefix=f"{slot}.")
    if spec.scenario != DEFAULT:
        traits["scenario"] = spec.scenario
    # 'cache', 'device' and what is only measured affect where and how often a run computes, not its results
    measured = MEASURES[:1] if {"patience", "select"} & spec.train.keys() else MEASURES
    return traits | {f"train.{name}": value for name, value in spec.train.items() if name not in measured}


def _traits_of(run: RunSummary) -> Traits:
    """The traits of a run's spec, its network if Python gave that, and the tasks that were added to it."""
    network = {"base.network": run.network} if run.network else {}
    added = {EXTENDED: "; ".join(run.extensions)} if run.extensions else {}
    selected = {SELECTION: str(run.selection)} if str(run.selection) else {}
    return {**_traits(run.spec), **network, **added, **selected}


def _names(methods: Sequence[Traits]) -> list[str]:
    """Distinct names. The absence of an option, in an older run, counts only if nothing else differs."""
    names = _named(methods, absence=False)
    return names if len(set(names)) == len(names) else _named(methods, absence=True)


def _named(methods: Sequence[Traits], absence: bool) -> list[str]:
    """The learner of each method, then the components and options that differ."""
    keys = {key: None for traits in methods for key in traits}
    slots = [slot for slot in _SLOTS if slot == "learner" or _component_differs(slot, methods)]
    options = [key for key in keys if "." in key and _option_differs(key, methods, absence)]
    counts = Counter(key.partition(".")[2] for key in options)
    known = {slot: {traits[slot] for traits in methods if slot in traits} for slot in slots}
    names = []
    for traits in methods:
        terms = [_short(traits[slot], known[slot]) for slot in slots if slot in traits]
        for key in options:
            if key in traits:
                option = key.partition(".")[2]
                name = key if counts[option] > 1 else option
                terms.append(f"{name.replace('_', '-')} {_format_option(traits[key])}")
        names.append(" · ".join(terms))
    return names


def _component_differs(slot: str, methods: Sequence[Traits]) -> bool:
    """Whether methods differ in a component beyond what their learners imply."""
    pairs = {(traits["learner"], traits.get(slot)) for traits in methods}
    components = {component for _, component in pairs if component}
    learners = {learner for learner, _ in pairs}
    return len(components) > 1 or len(pairs) > len(learners)


def _option_differs(key: str, methods: Sequence[Traits], absence: bool) -> bool:
    """Whether methods with the same component differ in its option; with `absence`, absence is a value."""
    slot = key.partition(".")[0]
    values: dict[Any, list[Any]] = {}
    for traits in methods:
        if key in traits or (absence and (slot in traits or slot == "train")):
            values.setdefault(traits.get(slot), []).append(traits.get(key, ...))
    return any(value != first for first, *others in values.values() for value in others)


def _short(name: str, known: set[str]) -> str:
    """The name without its package, unless two packages have a component of that name."""
    short = name.rpartition("/")[2]
    return short if [other.rpartition("/")[2] for other in known].count(short) == 1 else name


def _format_option(value: Any) -> str:
    """An option's value as typed on the command line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
