"""The public interface equals its snapshot in tests/api.txt, so that every change of it is reviewed.

Update the snapshot with ``python tests/core/test_api.py``, and describe the change in CHANGELOG.md
(CONTRIBUTING.md has the policy).
"""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from sidetune_core import api

SNAPSHOT = Path(__file__).parents[1] / "api.txt"


def test_the_public_interface_equals_its_snapshot() -> None:
    recorded, current = SNAPSHOT.read_text(encoding="utf-8").splitlines(), render().splitlines()
    changes = list(
        difflib.unified_diff(recorded, current, "tests/api.txt", "sidetune_core.api", lineterm="", n=0)
    )
    assert not changes, "\n".join(
        [
            "the public interface has changed; if this is intended, run python tests/core/test_api.py "
            "and add a file to changelog.d",
            *changes,
        ]
    )


def test_all_names_exist_in_order() -> None:
    assert sorted(api.__all__) == list(api.__all__)
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_a_class_is_rendered_with_attributes_methods_and_signatures() -> None:
    lines = render().splitlines()
    assert "class Learner(Module, ABC)" in lines
    assert "    penalty(self, batch: 'Batch') -> 'dict[str, Tensor]'" in lines
    assert "    needs: ClassVar[frozenset[str]]" in lines


def render() -> str:
    """A line for each public name, and for each public member of a class."""
    lines = []
    for name in api.__all__:
        value = getattr(api, name)
        if inspect.isclass(value):
            lines += [
                f"class {name}({', '.join(base.__name__ for base in value.__bases__)})",
                *members(value),
            ]
        elif inspect.isfunction(value):
            lines.append(f"{name}{inspect.signature(value)}")
        else:
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def members(cls: type[Any]) -> list[str]:
    """The public members of a class and its sidetune base classes; none of PyTorch or attrs."""
    lines: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("sidetune_core."):
            continue
        for name, annotation in inspect.get_annotations(base).items():
            if not name.startswith("_"):
                lines[name] = f"{name}: {getattr(annotation, '__forward_arg__', annotation)}"
        for name, value in vars(base).items():
            if name == "__init__" or not name.startswith("_"):
                lines[name] = member(name, value, lines.get(name, ""))
    return [f"    {line}" for _, line in sorted(lines.items()) if line]


def member(name: str, value: Any, annotation: str) -> str:
    """One line; `annotation` is the line from its annotation, if any."""
    if isinstance(value, property):
        return f"{name} -> {inspect.signature(value.fget).return_annotation}" if value.fget else name
    if isinstance(value, staticmethod | classmethod):
        return f"{type(value).__name__} {name}{inspect.signature(value.__func__)}"
    if inspect.isfunction(value):
        return f"{name}{inspect.signature(value)}"
    return annotation


if __name__ == "__main__":
    SNAPSHOT.write_text(render(), encoding="utf-8")
