"""Components from their options, or from an object that the user gave for one."""

from __future__ import annotations

from typing import Any

from sidetune_core.config.resolve import ResolvedComponent


def make_component(component: ResolvedComponent, config: Any, *arguments: Any) -> Any:
    """A component from its options and the arguments of its kind, and from the object that was given for
    it."""
    if component.given is None:
        return component.cls(config, *arguments)
    return component.cls.from_object(component.given, config, *arguments)
