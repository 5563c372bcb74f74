"""The components of a run fitted to each other: the side that nobody has chosen, the check of all shapes, and
the number of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.assembly.alternatives import (
    default_component,
    fitting_bases,
    fitting_mergers,
    fitting_sides,
    image_size_hint,
    smaller_sides,
)
from sidetune_core.assembly.blank import BlankBase, count_parameters, side_cost
from sidetune_core.assembly.check import check_merger, check_side, make_blank_base
from sidetune_core.assembly.task_cost import SideTuning, TaskCost, side_tuning, task_cost
from sidetune_core.assembly.trainable import TrainedParts, trained_parts
from sidetune_core.config import registry
from sidetune_core.config.choice import Choice
from sidetune_core.config.defaults import SIDES
from sidetune_core.config.kinds import SIDE
from sidetune_core.config.resolve import (
    ResolvedComponent,
    ResolvedRun,
    advice_lines,
    recipe_lines,
    suggested_components,
)
from sidetune_core.errors import FitError, PluginError
from sidetune_core.interfaces.capabilities import vocabulary_size
from sidetune_core.interfaces.networks import Merger, Side, taps_read
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.system.device import Machine
from sidetune_core.system.precision import Cost, CostMeter, Precision, Precisions


@attrs.frozen
class Fit:
    """A run whose components fit together."""

    resolved: ResolvedRun
    """The run; its side is chosen."""
    base: int
    """Parameters of the base."""
    side: int | None
    """Parameters of a side; None if there is none."""
    trainable: int | None
    """Parameters that are trained in a task, without those of its head; None if that is not known."""
    chosen: bool = False
    """Whether the side was chosen here, and is not the default."""
    warning: str = ""
    """That the side is larger than the base, and which sides are smaller."""
    side_taps: tuple[int, ...] | None = ()
    """Indices of the taps that the side reads; None for all."""
    precisions: Precisions = Precisions("bf16", "bf16")
    """By the rule of `system.precision`, for a CPU with bfloat16 units."""
    side_tuning: SideTuning | None = None
    """What a task costs that trains a side and a merger next to a frozen base; None for other learners."""

    def task_cost(self, machine: Machine, task: Task | None = None) -> TaskCost | None:
        """What the first task costs; None where no task trains a side and a merger only.

        Args:
            machine: has the precision of the base.
            task: the first task; None if it is not known.
        """
        if self.side_tuning is None:
            return None
        precision = machine.base_arithmetic or machine.arithmetic
        return task_cost(self.side_tuning, self.resolved, precision, task)

    def lines(self, cost: TaskCost | None) -> list[str]:
        """What to report when the run begins; `cost` is that of its first task."""
        lines = [*recipe_lines(self.resolved.components), *advice_lines(self.resolved)]
        if self.side is not None and (cost is not None or self.chosen):
            side, base = (self.resolved.components[slot] for slot in ("side", "base"))
            title = f"side {side.plugin.name}{f' (chosen: fits {base.title})' if self.chosen else ''}"
            if cost is not None:
                return [cost.line(title), *lines]
            lines.append(f"{title}: {self.side:,} parameters ({_percent(self.side, self.base)} of the base)")
        if self.trainable == 0:
            lines.append(f"trainable: the head of a task only; the base has {self.base:,} parameters")
        elif self.trainable is not None:
            lines.append(
                f"trainable {self.trainable:,} parameters a task without its head "
                f"({_percent(self.trainable, self.base)} of the base's {self.base:,})"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Numbers of parameters for ``run.json``."""
        counts = {"base": self.base, "side": self.side, "trainable": self.trainable}
        return {name: count for name, count in counts.items() if count is not None}


def fit_components(resolved: ResolvedRun, stream: TaskStream) -> Fit:
    """Pass a blank example through all networks, with random weights: a wrong shape is an error before
    weights are downloaded and data is read.

    A side that nobody has chosen is the default where that fits, otherwise the first of `defaults.SIDES` that
    fits and is smaller than the base.

    Args:
        resolved: the components.
        stream: gives the shapes of inputs.

    Raises:
        DataError: the env's tokenizer cannot be read.
        FitError: the components do not fit together; the message names some that do.
    """
    with seeded(resolved.seed, "check"):
        blank = _blank_base(resolved.components, stream)
        merger = _merger(resolved.components, blank)
        default = resolved.components.get("side")
        side: Side | None
        if resolved.open_side:
            resolved, side = _with_side(resolved, blank, merger)
        else:
            side = _side(resolved.components, blank)
        trained = _trained(resolved.components, blank, side, merger)
        meter = side_cost(side, blank, resolved.components["side"].owner) if side is not None else None
        precisions = _precisions(blank, meter, trained)
        tuning = None
        if side is not None and meter is not None and merger is not None and trained is not None:
            tuning = side_tuning(blank, side, meter, merger, trained)
        size = count_parameters(side) if side is not None else None
        larger = size is not None and size > blank.parameters and not _is_suggested(resolved)
        warning = _size_warning(resolved.components, blank, size) if larger and size is not None else ""
    chosen = default is not None and resolved.components["side"].plugin != default.plugin
    trainable = trained.parameters if trained is not None else None
    side_taps = taps_read(side) if side is not None else ()
    return Fit(resolved, blank.parameters, size, trainable, chosen, warning, side_taps, precisions, tuning)


def _precisions(blank: BlankBase, side: CostMeter | None, trained: TrainedParts | None) -> Precisions:
    """The precisions that suit the networks; where it is not known what is trained, all may be."""
    if trained is not None and trained.is_of_copies:
        trained = None
    costs = []
    if side is not None and (trained is None or trained.side):
        costs.append(side.cost)
    if trained is None or trained.base:
        costs.append(blank.cost)
    cost = sum(costs, start=Cost())
    precision: Precision = "fp32" if cost.narrow else cost.best_precision
    base_is_trained = trained is not None and trained.base
    base = precision if base_is_trained else blank.cost.best_precision
    return Precisions(base, precision, cost.narrow, base_is_trained)


def _is_suggested(resolved: ResolvedRun) -> bool:
    """Whether the side is the one that the env suggests."""
    env, side = resolved.components["env"], resolved.components["side"]
    suggested = suggested_components((env.plugin, env.cls)).get("side")
    return suggested is not None and suggested.name in (side.choice, side.plugin.name)


def _size_warning(components: Mapping[str, ResolvedComponent], blank: BlankBase, size: int) -> str:
    times = f", {size / blank.parameters:,.3g} x the base" if blank.parameters else ""
    smaller = smaller_sides(components, blank, blank.parameters)
    return f"warning: {components['side'].owner} has {size:,} parameters{times}{smaller}"


def _blank_base(components: Mapping[str, ResolvedComponent], stream: TaskStream) -> BlankBase:
    try:
        return make_blank_base(
            components["base"], stream.inputs, vocabulary_size(stream), components["env"].owner
        )
    except FitError as error:
        hint = image_size_hint(components, stream) or fitting_bases(components, stream.inputs)
        raise FitError(f"{error}{hint}") from error


def _side(components: Mapping[str, ResolvedComponent], blank: BlankBase) -> Side | None:
    if "side" not in components:
        return None
    try:
        return check_side(components["side"], blank)
    except FitError as error:
        raise FitError(f"{error}{fitting_sides(components, blank)}") from error


def _merger(components: Mapping[str, ResolvedComponent], blank: BlankBase) -> Merger | None:
    if "merger" not in components:
        return None
    try:
        return check_merger(components["merger"], blank)
    except FitError as error:
        raise FitError(f"{error}{fitting_mergers(components, blank)}") from error


def _trained(
    components: Mapping[str, ResolvedComponent], blank: BlankBase, side: Side | None, merger: Merger | None
) -> TrainedParts | None:
    try:
        return trained_parts(components["learner"], blank, side, merger)
    except FitError as error:
        hint = fitting_sides(components, blank) if side is not None else ""
        raise FitError(f"{error}{hint}") from error


def _with_side(resolved: ResolvedRun, blank: BlankBase, merger: Merger | None) -> tuple[ResolvedRun, Side]:
    """The run with the side that fits."""
    default, learner = resolved.components["side"], resolved.components["learner"]
    fitting: list[tuple[int, ResolvedComponent, Side]] = []
    first_error: Exception | None = None
    for name in SIDES:
        try:
            component = default if name == default.choice else default_component(registry.find(SIDE, name))
            side = check_side(component, blank, allocate=False)
            trained_parts(learner, blank, side, merger)
        except (FitError, PluginError) as error:
            first_error = first_error or error
            continue
        size = count_parameters(side)
        if component is default or size < blank.parameters:
            return _chosen(resolved, component), side
        fitting.append((size, component, side))
    if not fitting:
        hint = fitting_sides(resolved.components, blank)
        raise FitError(f"no side was chosen, and {first_error}{hint}") from first_error
    _, component, side = min(fitting, key=lambda one: one[0])
    return _chosen(resolved, component), side


def _chosen(resolved: ResolvedRun, side: ResolvedComponent) -> ResolvedRun:
    """The run with a side. The spec that was asked for names it too, if it names the default."""
    requested = resolved.requested
    if requested is not None and side is not resolved.components["side"]:
        named = requested.side is not None and requested.side.name == resolved.components["side"].choice
        if named:
            requested = requested.with_components({"side": Choice(side.choice)})
    return attrs.evolve(
        resolved,
        components={**resolved.components, "side": side},
        requested=requested,
        open_side=False,
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "∞ %"
