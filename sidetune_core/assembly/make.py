"""A component from its options, or from an object that the user gave for it."""

from __future__ import annotations

from typing import Any

import attrs

from sidetune_core.config.resolve import ResolvedComponent


def make_component(component: ResolvedComponent, config: Any, *arguments: Any) -> Any:
    """A component from its options and the arguments of its kind, and from the object that was given for
    it."""
    if component.given is None:
        return component.cls(config, *arguments)
    return component.cls.from_object(component.given, config, *arguments)


def without_weights(component: ResolvedComponent) -> Any:
    """The config of a component with random weights: by convention, pretrained weights are an option
    ``weights``.
    """
    if any(field.name == "weights" for field in attrs.fields(component.cls.Config)):
        return attrs.evolve(component.config, weights="none")
    return component.config
