"""The names of `sidetune_core.api` by topic, from the modules that they are defined in."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import sidetune_core

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "networks": (
        *("interfaces.networks", "interfaces.inputs", "interfaces.layers", "interfaces.added_layers"),
        "interfaces.continuation",
    ),
    "learners": (
        *("interfaces.learner", "interfaces.training", "interfaces.heads", "interfaces.buffers"),
        *("interfaces.joint_scores", "scenarios"),
    ),
    "tasks": (
        *("interfaces.tasks", "interfaces.outputs", "interfaces.cards", "interfaces.handlers"),
        *("interfaces.predictions", "supervised", "io"),
    ),
    "capabilities": ("interfaces.capabilities",),
    "options": ("config",),
    "weights": ("storage", "seeding"),
    "errors": ("errors",),
}
"""Modules of `sidetune_core`, or packages of it, of each topic."""


def members(topic: str) -> str:
    """The mkdocstrings blocks of all names of a topic."""
    names = [name for name, module in _origins() if _topic(module) == topic]
    return "\n\n".join(f"::: sidetune_core.api.{name}\n    options: {{heading_level: 3}}" for name in names)


def ungrouped() -> list[str]:
    """Names of no topic."""
    return [name for name, module in _origins() if not _topic(module)]


def _topic(module: str) -> str:
    for topic, modules in GROUPS.items():
        if any(module == known or module.startswith(f"{known}.") for known in modules):
            return topic
    return "networks" if module.startswith("interfaces.") else ""


def _origins() -> Iterator[tuple[str, str]]:
    """Each name of `sidetune_core.api` with its module below `sidetune_core`, in the order of the imports."""
    source = (Path(sidetune_core.__file__).parent / "api.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sidetune_core."):
            module = (node.module or "").removeprefix("sidetune_core.")
            if module != "lazy":
                yield from ((alias.asname or alias.name, module) for alias in node.names)
