"""Objects that Python gives in place of names: a network as a base, tasks as an env.

A spec records the component that wraps the object, and its options; the object itself is given again where a
run is continued or loaded. Nothing here imports torch: an object of a class of torch exists only if torch is
imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from sidetune_core.config.defaults import FOR_OBJECTS
from sidetune_core.errors import OptionError

if TYPE_CHECKING:
    from sidetune_core.config.resolve import ResolvedRun

KEYS: Mapping[str, str] = {"base": "module", "env": "tasks"}
"""The key of the object next to options, as in ``base={"module": net, "encoding": "layer4"}``."""

CLASSES: Mapping[str, str] = {
    "base": "sidetune_core.interfaces.networks:Base",
    "side": "sidetune_core.interfaces.networks:Side",
    "merger": "sidetune_core.interfaces.networks:Merger",
    "learner": "sidetune_core.interfaces.learner:Learner",
    "env": "sidetune_core.interfaces.tasks:TaskStream",
}
"""The classes whose instances are components by themselves."""


@attrs.frozen
class Objects:
    """What was given to continue or to load a run: its network, its tasks."""

    base: Any = attrs.field(default=None, eq=id)
    tasks: tuple[Any, ...] | None = attrs.field(default=None, eq=id)


NONE = Objects()


def as_objects(base: Any = None, tasks: Any = None) -> Objects:
    """The objects of the arguments ``base=`` and ``tasks=`` of `resume`, `extend` and `load`.

    Raises:
        OptionError: one is something else.
    """
    if base is not None and not is_instance(base, "torch.nn:Module"):
        raise OptionError(
            f"base= is the network that the run was made with, an nn.Module; got {kind_of(base)}"
        )
    if tasks is None:
        return Objects(base)
    listed = listed_tasks(tasks)
    if listed is None:
        raise OptionError(f"tasks= is a list of tasks, as Task.from_dataset makes them; got {kind_of(tasks)}")
    return Objects(base, listed)


def given_object(slot: str, value: object) -> Any:
    """The object in a value for a slot: a network for 'base', a tuple of tasks for 'env'; otherwise None.

    Raises:
        OptionError: it is a component's class, or an instance of one, which are chosen by name.
    """
    if slot == "base" and is_class(value, "torch.nn:Module") and not is_class(value, CLASSES[slot]):
        raise OptionError(f"base is the class {value.__name__}: give a network, base={value.__name__}(...)")
    if isinstance(value, type):
        raise OptionError(_by_name(slot, value, f"{slot} is the class {value.__qualname__}"))
    if is_instance(value, CLASSES[slot]):
        raise OptionError(_by_name(slot, type(value), f"{slot} is an instance of {type(value).__qualname__}"))
    if slot == "base" and is_instance(value, "torch.nn:Module"):
        return value
    if slot == "env" and (tasks := listed_tasks(value)) is not None:
        return tasks
    accepted = {"base": ", or an nn.Module", "env": ", or a list of tasks"}.get(slot, "")
    raise OptionError(
        f"{slot} is a name, such as 'my_module:My{slot.title()}', a table with a name and options{accepted}; "
        f"got {kind_of(value)}"
    )


def listed_tasks(value: object) -> tuple[Any, ...] | None:
    """Tasks as a tuple, also one by itself; None for anything else."""
    if is_instance(value, "sidetune_core.interfaces.tasks:Task"):
        return (value,)
    if not isinstance(value, list | tuple) or not value:
        return None
    are_tasks = all(is_instance(task, "sidetune_core.interfaces.tasks:Task") for task in value)
    return tuple(value) if are_tasks else None


def is_instance(value: object, target: str) -> bool:
    """Whether a value is an instance of ``module:Class``; false as long as that module is not imported."""
    module, _, name = target.partition(":")
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(value, cls)


def is_class(value: object, target: str) -> TypeGuard[type]:
    """Whether a value is ``module:Class``, or derived from it."""
    module, _, name = target.partition(":")
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(value, type) and isinstance(cls, type) and issubclass(value, cls)


def with_objects(resolved: ResolvedRun, objects: Objects) -> ResolvedRun:
    """A run with the objects that its components are made of.

    Args:
        resolved: the run.
        objects: those that are given; what is None stays as it is.

    Raises:
        OptionError: a component of the run is not made of an object.
    """
    components = dict(resolved.components)
    for slot, value in (("base", objects.base), ("env", objects.tasks)):
        if value is None:
            continue
        component = components.get(slot)
        if component is None or component.choice != FOR_OBJECTS[slot]:
            argument = "base=" if slot == "base" else "tasks="
            name = "no base" if component is None else component.owner
            raise OptionError(
                f"the run has {name}, which is not made of a Python object: leave out {argument}"
            )
        components[slot] = attrs.evolve(component, given=value)
    return attrs.evolve(resolved, components=components)


def unwritten(resolved: ResolvedRun) -> str:
    """A sentence on the objects of a run that its spec cannot hold, and how they are given again; empty if
    there are none."""
    held = [slot for slot in FOR_OBJECTS if has_object(resolved, slot)]
    if not held:
        return ""
    names = {"base": f"base ({kind_of(given_of(resolved, 'base'))})", "env": "tasks"}
    arguments = {"base": "base=...", "env": "tasks=[...]"}
    return (
        f"not in the spec: the {' and the '.join(names[slot] for slot in held)}; give "
        f"{'it' if held == ['base'] else 'them'} again, as in sidetune_core.resume(RUN, "
        f"{', '.join(arguments[slot] for slot in held)})"
    )


def has_object(resolved: ResolvedRun, slot: str) -> bool:
    """Whether a component of a run is made of an object of the user's."""
    component = resolved.components.get(slot)
    return component is not None and component.choice == FOR_OBJECTS.get(slot)


def given_of(resolved: ResolvedRun, slot: str) -> Any:
    """The object of a component; None if there is none."""
    component = resolved.components.get(slot)
    return None if component is None else component.given


def _by_name(slot: str, cls: type, what: str) -> str:
    target = CLASSES[slot]
    module, _, wanted = target.partition(":")
    if module in sys.modules and not is_class(cls, target):
        return (
            f"{what}, which is no {wanted}: derive it from sidetune_core.api.{wanted}, or give a name that "
            f"sidetune list {slot}s prints"
        )
    module, where = cls.__module__, ""
    if module == "__main__":  # under this name, no other process finds it
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else "my_module"
        where = f", once the class is in {module}.py" if not file else ""
    name = f"{module}:{cls.__qualname__}"
    also = {"base": " (an nn.Module that is no Base can be given as it is)"}.get(slot, "")
    return (
        f"{what}; components are chosen by name: {slot}={name!r}, or "
        f"{{'name': {name!r}, OPTION: VALUE}}{where}{also}"
    )


def kind_of(value: object) -> str:
    """``a list of int``, for messages."""
    if isinstance(value, list | tuple):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a {type(value).__name__} of {', '.join(kinds[:3]) or 'nothing'}"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
