"""The public interface is what is written down in tests/api.txt: a change of it is one that somebody has looked at.

Renew the file with ``python tests/core/test_api.py``, and say in CHANGELOG.md what has changed (CONTRIBUTING.md has the policy).
"""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from sidetune_core import api

SNAPSHOT = Path(__file__).parents[1] / "api.txt"


def test_the_public_interface_is_the_one_that_is_written_down() -> None:
    there, now = SNAPSHOT.read_text(encoding="utf-8").splitlines(), render().splitlines()
    changes = list(difflib.unified_diff(there, now, "tests/api.txt", "sidetune_core.api", lineterm="", n=0))
    assert not changes, "\n".join(
        [
            "the public interface has changed; if that is meant: python tests/core/test_api.py, and a line in CHANGELOG.md",
            *changes,
        ]
    )


def test_all_names_are_there_in_order() -> None:
    assert sorted(api.__all__) == list(api.__all__)
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_a_class_is_written_with_its_attributes_methods_and_their_signatures() -> None:
    lines = render().splitlines()
    assert "class Learner(Module, ABC)" in lines
    assert "    penalty(self, batch: 'Batch') -> 'dict[str, Tensor]'" in lines
    assert "    needs: ClassVar[frozenset[str]]" in lines


def render() -> str:
    """A line for each public name, and for each public member of a class."""
    lines = []
    for name in api.__all__:
        thing = getattr(api, name)
        if inspect.isclass(thing):
            lines += [
                f"class {name}({', '.join(base.__name__ for base in thing.__bases__)})",
                *members(thing),
            ]
        elif inspect.isfunction(thing):
            lines.append(f"{name}{inspect.signature(thing)}")
        else:
            lines.append(f"{name} = {thing}")
    return "\n".join(lines) + "\n"


def members(cls: type[Any]) -> list[str]:
    """What a class and those that it derives from say themselves; nothing of PyTorch's or of attrs'."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if not one.__module__.startswith("sidetune_core."):
            continue
        for name, annotation in inspect.get_annotations(one).items():
            if not name.startswith("_"):
                found[name] = f"{name}: {getattr(annotation, '__forward_arg__', annotation)}"
        for name, value in vars(one).items():
            if name == "__init__" or not name.startswith("_"):
                found[name] = member(name, value, found.get(name, ""))
    return [f"    {line}" for _, line in sorted(found.items()) if line]


def member(name: str, value: Any, known: str) -> str:
    """One line; `known` is what an annotation has said about it."""
    if isinstance(value, property):
        return f"{name} -> {inspect.signature(value.fget).return_annotation}" if value.fget else name
    if isinstance(value, staticmethod | classmethod):
        return f"{type(value).__name__} {name}{inspect.signature(value.__func__)}"
    if inspect.isfunction(value):
        return f"{name}{inspect.signature(value)}"
    return known


if __name__ == "__main__":
    SNAPSHOT.write_text(render(), encoding="utf-8")
