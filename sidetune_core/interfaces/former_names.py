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


def former_values(member: str, **renamed: str) -> Callable[[T], T]:
    """Decorate a class with a member of text whose values were renamed, given as ``former="new"``.

    A subclass or an object that sets a former value has the new one, and a value equals its former spelling;
    both raise a `DeprecationWarning` that names the new value.
    """

    def convert(cls: type[Any]) -> None:
        if isinstance(vars(cls).get(member), str):
            setattr(cls, member, RenamedValue(cls, member, vars(cls)[member], renamed))

    def decorate(cls: T) -> T:
        _call_for_subclasses(cls, convert)
        convert(cls)
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


class RenamedValue:
    """A data descriptor: a member of text that takes former spellings of its values."""

    def __init__(self, owner: type[Any], member: str, default: str, renamed: Mapping[str, str]) -> None:
        self.title, self.member, self.renamed = f"{owner.__name__}.{member}", member, renamed
        self.default = self._convert(default)

    def __get__(self, instance: object, _: type[Any]) -> Spelling:
        value: Spelling = self.default if instance is None else vars(instance).get(self.member, self.default)
        return value

    def __set__(self, instance: object, value: str) -> None:
        vars(instance)[self.member] = self._convert(value)

    def _convert(self, value: str) -> Spelling:
        if value in self.renamed:
            warn_of_former(f"{self.title} '{value}'", f"'{self.renamed[value]}'")
        return Spelling(self.renamed.get(value, value), self.title, self.renamed)


class Spelling(str):
    """A text that equals its former spelling as well, with a warning."""

    member: str
    renamed: Mapping[str, str]

    def __new__(cls, text: str, member: str, renamed: Mapping[str, str]) -> Spelling:
        spelling = super().__new__(cls, text)
        spelling.member, spelling.renamed = member, renamed
        return spelling

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and (new := self.renamed.get(str(other))) is not None:
            warn_of_former(f"{self.member} '{other}'", f"'{new}'")
            return str.__eq__(self, new)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def warn_of_former(former: str, new: str) -> None:
    """Raise the `DeprecationWarning` for a former name or value, at the line that defines or uses it."""
    frame, level = sys._getframe(1), 2
    while frame.f_globals.get("__name__") in (__name__, "abc") and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    message = f"{former} is now {new}; the former spelling stops working in version {REMOVAL}"
    warnings.warn(message, DeprecationWarning, stacklevel=level)


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
