"""The tables of the catalogue: what is installed, with its options, and what fits what.

All of it is computed from the registry, and by building components with random weights on blank examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from typing import Any, Final

import attrs

from sidetune_core.assembly.alternatives import default_component
from sidetune_core.assembly.blank import BlankBase, count_parameters
from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.check import check_merger, check_side, make_blank_base
from sidetune_core.config import registry
from sidetune_core.config.checkout import local_packages
from sidetune_core.config.kinds import BASE, ENV, KINDS, LEARNER, MERGER, SIDE, Kind, kind
from sidetune_core.config.options import describe
from sidetune_core.config.resolve import ResolvedComponent, resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.summaries import summary
from sidetune_core.errors import SidetuneError

OURS: Final = "sidetune"
MAX_OPTIONS: Final = 6
"""Most options of a component that are named."""

INPUTS: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    "image 32 x 32": {"image": (3, 32, 32)},
    "image 224 x 224": {"image": (3, 224, 224)},
    "tokens": {"tokens": (16,), "mask": (16,), "types": (16,)},
    "vector": {"vector": (8,)},
}
"""Blank examples; a base is built for the first that it accepts."""

MODELS: Final[Mapping[str, Sequence[str]]] = {
    "torchvision": ("resnet18",),
    "timm": ("resnet18", "vit_tiny_patch16_224"),
}
"""Networks of libraries that are built as examples."""


def table(name: str) -> str:
    """The table that a line ``<!-- catalogue: NAME -->`` asks for: of a kind, such as ``bases``, or one of
    `FITS`."""
    return FITS[name]() if name in FITS else _components(kind(name))


def _components(of: Kind) -> str:
    rows = []
    for plugin in _plugins(of):
        options = describe(registry.load(plugin).Config)
        names = [f"`{option.name}`" for option in options[:MAX_OPTIONS]]
        more = f" and {len(options) - MAX_OPTIONS} more" if len(options) > MAX_OPTIONS else ""
        rows.append([f"`{plugin.name}`", _cell(summary(plugin)), " ".join(names) + more])
    return _markdown([of.name, "what it is", f"options, each as `--{of.name}.NAME`"], rows)


def fitting_sides() -> str:
    """The sides and mergers that fit each base."""
    rows = []
    for title, inputs, base in _bases():
        encoding = tuple(base.features.encoding.shape[1:])
        sides, mergers = _fitting(SIDE, check_side, base), _fitting(MERGER, check_merger, base)
        size = f"{count_parameters(base.base):,}"
        every = len(mergers) == len(_default_components(MERGER))
        fitting = "all" if every else _names(mergers)
        rows.append([f"`{title}`", inputs, str(encoding), size, _names(sides), fitting])
    return _markdown(["base", "input", "encoding", "parameters", "sides that fit", "mergers that fit"], rows)


def learners() -> str:
    """The scenarios of each learner, and the components that it uses."""
    rows = []
    for plugin in _plugins(LEARNER):
        cls = registry.load(plugin)
        scenarios = [name for name in ("task", "domain", "class") if name in cls.scenarios]
        uses = [*sorted(cls.needs), *(f"{name} (optional)" for name in sorted(cls.optional_components))]
        rows.append([f"`{plugin.name}`", " ".join(f"`{name}`" for name in scenarios), ", ".join(uses)])
    return _markdown(["learner", "scenarios", "components"], rows)


def envs() -> str:
    """The inputs that each env gives, and the components that are its defaults."""
    rows = []
    for plugin in _plugins(ENV):
        inputs, chosen = "those of its data", ""
        with suppress(SidetuneError, ImportError):
            resolved = resolve(RunSpec(env=plugin.name))
            slots = [slot for slot in ("base", "side", "merger", "learner") if slot in resolved.components]
            chosen = " ".join(f"`{resolved.components[slot].plugin.name}`" for slot in slots)
            with closing(build_stream(resolved)) as stream:
                inputs = ", ".join(f"`{name}` {shape}" for name, shape in stream.inputs.items())
        rows.append([f"`{plugin.name}`", inputs, chosen])
    return _markdown(["env", "inputs by default", "base, side, merger and learner by default"], rows)


def packages() -> str:
    """The packages with plugins in this checkout."""
    rows = [
        [f"`pip install ./examples/{package.folder.name}`", f"{of.plural} {_names(names)}"]
        for package in local_packages()
        for of, names in package.components.items()
    ]
    return _markdown(["command", "adds"], rows)


FITS: Final[Mapping[str, Callable[[], str]]] = {
    "sides of bases": fitting_sides,
    "scenarios of learners": learners,
    "inputs of envs": envs,
    "packages": packages,
}
NAMES: Final = (*FITS, *(of.plural for of in KINDS))
"""All tables."""


def _plugins(of: Kind) -> list[registry.Plugin]:
    """Our own components of a kind; a component whose library is missing is not shown."""
    usable = []
    for plugin in registry.installed(of):
        with suppress(SidetuneError):
            if plugin.distribution == OURS:
                registry.load(plugin)
                usable.append(plugin)
    return usable


@cache
def _default_components(of: Kind) -> tuple[ResolvedComponent, ...]:
    return tuple(default_component(plugin) for plugin in _plugins(of))


def _bases() -> Iterator[tuple[str, str, BlankBase]]:
    """Each base that can be built without a download, with the blank example that it is built for."""
    for component in _default_components(BASE):
        name = component.plugin.name
        for model in MODELS.get(name, ("",)):
            options: dict[str, Any] = {"model": model} if model else {}
            built = attrs.evolve(component, config=component.cls.Config(**options))
            for inputs, shapes in INPUTS.items():
                with suppress(SidetuneError):
                    yield f"{name} {model}".strip(), inputs, make_blank_base(built, shapes)
                    break


def _fitting(of: Kind, check: Callable[..., object], base: BlankBase) -> list[str]:
    """The names of the components that fit a base; large ones are built on the meta device if they can be."""
    names = []
    for component in _default_components(of):
        with suppress(SidetuneError):
            try:
                check(component, base, allocate=False)
            except RuntimeError:  # its forward pass needs values
                check(component, base)
            names.append(component.plugin.name)
    return names


def _names(names: Sequence[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
