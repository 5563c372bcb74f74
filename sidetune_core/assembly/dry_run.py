"""A run without its data: whether its device exists and its components fit together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir, closing

import attrs

from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.fit import Fit, fit_components
from sidetune_core.assembly.restore import run_precisions
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import DataError, WeightsError
from sidetune_core.system import device


@attrs.frozen
class DryFit:
    """What is known of a run without its data."""

    resolved: ResolvedRun
    lines: tuple[str, ...]
    """See `Fit.lines`."""
    warning: str = ""
    """See `Fit.warning`; or why shapes could not be checked."""


def fit_without_data(resolved: ResolvedRun) -> DryFit:
    """Everything of a run that can be checked without its data: its device, and that the components fit
    together. An env that cannot give the shapes of its inputs without its data, and a base whose
    configuration cannot be downloaded, are left unchecked.

    Raises:
        SidetuneError: the device does not exist, or the components do not fit together.
    """
    device.choose(resolved.device)
    fit = _fit(resolved)
    if isinstance(fit, str):
        return DryFit(resolved, (), f"warning: shapes are not checked: {fit}")
    machine = device.choose(resolved.device, preferred=run_precisions(resolved) or fit.precisions)
    return DryFit(fit.resolved, tuple(fit.lines(fit.task_cost(machine))), fit.warning)


def side_chooser() -> Callable[[ResolvedRun], ResolvedRun]:
    """A function that checks runs, of which several have the same components, and chooses their sides. Each
    combination of components is built once. Their devices may be those of other computers."""
    known: dict[str, ResolvedRun] = {}

    def settled(resolved: ResolvedRun) -> ResolvedRun:
        key = repr((resolved.components, resolved.open_side))
        if key not in known:
            fit = _fit(resolved)
            known[key] = resolved if isinstance(fit, str) else fit.resolved
        side = {slot: known[key].components[slot] for slot in ("side",) if slot in known[key].components}
        return attrs.evolve(resolved, components={**resolved.components, **side}, open_side=False)

    return settled


def _fit(resolved: ResolvedRun) -> Fit | str:
    """The components fitted to each other; or why they could not be."""
    try:
        with chdir("."), closing(build_stream(resolved)) as stream:
            return fit_components(resolved, stream)
    except (DataError, WeightsError) as error:
        return str(error)
