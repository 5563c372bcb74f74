"""Installed components that fit where another one does not, for error messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import attrs

from sidetune_core.assembly.blank import BlankBase, count_parameters
from sidetune_core.assembly.check import check_merger, check_side, make_blank_base
from sidetune_core.assembly.trainable import trained_parts
from sidetune_core.config import registry
from sidetune_core.config.defaults import SIDES
from sidetune_core.config.kinds import BASE, MERGER, SIDE, Kind
from sidetune_core.config.registry import Plugin
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.errors import SidetuneError
from sidetune_core.interfaces.capabilities import DeclaresImageInput
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import TaskStream

MAX_SECONDS = 2.0
"""Time in which components are tried; those that are left by then are not named."""
MAX_NAMED = 6
"""Most components that are named."""


def fitting_sides(components: Mapping[str, ResolvedComponent], blank: BlankBase) -> str:
    """``; sides that fit this base: ladder, copy (--side ladder)``; empty if none is found.

    Args:
        components: of the run, by slot; the side is left out of those that are tried.
        blank: its base.
    """
    title = "sides that fit this base"
    return _named(SIDE, title, components, lambda one: _size(one, components, blank) >= 0)


def smaller_sides(components: Mapping[str, ResolvedComponent], blank: BlankBase, size: int) -> str:
    """``; sides that fit and are smaller: ladder, conv (--side ladder)`` than `size` parameters."""

    def is_smaller(side: ResolvedComponent) -> bool:
        return _size(side, components, blank) < size

    return _named(SIDE, "sides that fit and are smaller", components, is_smaller)


def image_size_hint(components: Mapping[str, ResolvedComponent], stream: TaskStream) -> str:
    """``; timm vit_tiny takes 224 x 224: --env.image-size 224``; empty if the size is not the reason."""
    base, env = components["base"], components["env"]
    if not isinstance(base.cls, DeclaresImageInput):
        return ""
    images, shape = base.cls.image_input(base.config), stream.inputs.get("image", ())
    if images is None or len(shape) != 3 or shape[0] != 3 or set(shape[1:]) == {images.size}:
        return ""
    takes = f"; {base.title} takes {images.size} x {images.size}"
    has_size = any(field.name == "image_size" for field in attrs.fields(type(env.config)))
    return f"{takes}: --env.image-size {images.size}" if has_size else f"{takes} images"


def fitting_mergers(components: Mapping[str, ResolvedComponent], blank: BlankBase) -> str:
    """``; mergers that fit this base: alpha, sum (--merger alpha)``; empty if none is found."""

    def fits(merger: ResolvedComponent) -> bool:
        check_merger(merger, blank, allocate=False)
        return True

    return _named(MERGER, "mergers that fit this base", components, fits)


def fitting_bases(components: Mapping[str, ResolvedComponent], inputs: InputShapes) -> str:
    """``; bases that fit env 'digits': resnet44, conv (--base resnet44)``; empty if none is found. Bases that
    are libraries of many networks are not tried."""
    title = f"bases that fit {components['env'].owner}"
    return _named(BASE, title, components, lambda one: bool(make_blank_base(one, inputs).base.shape))


def default_component(plugin: Plugin) -> ResolvedComponent:
    """A component with its default options.

    Raises:
        PluginError: it cannot be imported.
    """
    cls = registry.load(plugin)
    return ResolvedComponent(plugin, cls, cls.Config())


def _size(component: ResolvedComponent, components: Mapping[str, ResolvedComponent], blank: BlankBase) -> int:
    """The number of parameters of a side that fits the base and the learner.

    Raises:
        FitError: it does not fit.
    """
    side = check_side(component, blank, allocate=False)
    merger = check_merger(components[MERGER.name], blank) if MERGER.name in components else None
    trained_parts(components["learner"], blank, side, merger)
    return count_parameters(side)


def _named(
    kind: Kind,
    title: str,
    components: Mapping[str, ResolvedComponent],
    fits: Callable[[ResolvedComponent], bool],
) -> str:
    deadline = time.monotonic() + MAX_SECONDS
    names: list[str] = []
    for component in _candidates(kind, components.get(kind.name)):
        if time.monotonic() > deadline or len(names) == MAX_NAMED:
            break
        try:
            fitting = fits(component)
        except Exception:  # it does not fit, or is broken: in both cases it is not to be recommended
            continue
        if fitting:
            names.append(component.plugin.name)
    return f"; {title}: {', '.join(names)} (--{kind.name} {names[0]})" if names else ""


def _candidates(kind: Kind, chosen: ResolvedComponent | None) -> Iterator[ResolvedComponent]:
    """The other installed components of a kind that need no download, those of `defaults.SIDES` first."""
    order = {name: number for number, name in enumerate(SIDES)} if kind is SIDE else {}
    plugins = sorted(
        registry.installed(kind),
        key=lambda plugin: order.get(f"{plugin.distribution}/{plugin.name}", len(order)),
    )
    for plugin in plugins:
        if chosen is not None and plugin == chosen.plugin:
            continue
        try:
            component = default_component(plugin)
        except SidetuneError:
            continue
        if not any(field.name == "model" for field in attrs.fields(component.cls.Config)):
            yield component
