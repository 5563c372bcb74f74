"""Members of the interfaces under their names of version 0.1, for plugins that still define or use those."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

REMOVAL = "0.3"
"""The version in which former names stop working."""

T = TypeVar("T", bound=type)


def former_members(**renamed: str) -> Callable[[T], T]:
    """Decorate a class whose members were renamed, given as ``former="new"``.

    A subclass that defines a former member has it under the new name too, so it overrides, and implements
    abstract methods, as before. Reading or setting a former member of an object or class reaches the new
    one. Both raise a `DeprecationWarning` that names the new member. A subclass that defines both names, to
    work with two versions of sidetune, keeps both without a warning.
    """

    def decorate(cls: T) -> T:
        _call_for_subclasses(cls, lambda sub: _rename_own_members(sub, renamed))
        for former, new in renamed.items():
            setattr(cls, former, FormerMember(cls, former, new))
        return cls

    return decorate


class FormerMember:
    """A data descriptor: the member `new` of `owner` under its former name."""

    def __init__(self, owner: type[Any], former: str, new: str) -> None:
        self.owner, self.former, self.new = owner, former, new

    def __get__(self, instance: object, cls: type[Any]) -> Any:
        self._warn()
        target, mro = (cls if instance is None else instance), cls.__mro__
        position = mro.index(self.owner)
        if any(self.former in vars(sub) for sub in mro[:position]):  # a subclass reads it through super()
            return getattr(super(mro[position - 1], target), self.new)
        return getattr(target, self.new)

    def __set__(self, instance: object, value: object) -> None:
        self._warn()
        setattr(instance, self.new, value)

    def _warn(self) -> None:
        warn_of_former(f"{self.owner.__name__}.{self.former}", self.new)


def warn_of_former(former: str, new: str) -> None:
    """Raise the `DeprecationWarning` for a former name or value, at the line that defines or uses it."""
    frame, level = sys._getframe(1), 2
    while (
        frame.f_globals.get("__name__", "").startswith(("sidetune_core.interfaces.", "abc"))
        and frame.f_back is not None
    ):
        frame, level = frame.f_back, level + 1
    message = f"{former} is now {new}; the former spelling stops working in version {REMOVAL}"
    warnings.warn(message, DeprecationWarning, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module == "abc" or module.startswith("sidetune_core.interfaces.")


def _call_for_subclasses(cls: type[Any], rename: Callable[[type[Any]], None]) -> None:
    """Call `rename` with every later subclass of `cls`, before abstract methods are counted."""
    previous = vars(cls).get("__init_subclass__")

    def init_subclass(sub: type[Any], /, **arguments: Any) -> None:
        if previous is None:
            super(cls, sub).__init_subclass__(**arguments)
        else:
            previous.__func__(sub, **arguments)
        rename(sub)

    type.__setattr__(cls, "__init_subclass__", classmethod(init_subclass))


def _rename_own_members(cls: type[Any], renamed: Mapping[str, str]) -> None:
    """Give the members that `cls` itself defines under a former name their new name."""
    for former, new in renamed.items():
        own = vars(cls)
        defines_former = former in own and not isinstance(own[former], FormerMember)
        if defines_former and new in own:
            continue
        if defines_former:
            warn_of_former(f"{cls.__module__}.{cls.__qualname__}.{former}", new)
            setattr(cls, new, own[former])
        if new in own:
            setattr(cls, former, FormerMember(cls, former, new))
