"""Checks of a plugin's metadata, which import nothing."""

from __future__ import annotations

import re
from importlib import metadata

from sidetune_core.config.registry import LOCAL, Plugin
from sidetune_core.testing.findings import Broken, Skipped

NAME = r"[a-z0-9][a-z0-9_-]*"


def name_is_plain(plugin: Plugin) -> None:
    """The entry-point name has lower-case letters, digits, ``-`` and ``_`` only."""
    if plugin.distribution == LOCAL:
        raise Skipped("its package is not installed, so it has no entry-point name")
    if not re.fullmatch(NAME, plugin.name):
        raise Broken(
            f"the entry point is called '{plugin.name}'; use lower-case letters, digits, '-' and '_'"
        )


def distribution_requires_sidetune(plugin: Plugin) -> None:
    """The distribution requires sidetune, so installing it installs a suitable version."""
    if plugin.distribution == LOCAL:
        raise Skipped("its package is not installed, so it has no metadata")
    if plugin.distribution == "sidetune":
        return
    required = metadata.distribution(plugin.distribution).requires or []
    if not any(re.match(r"sidetune\b(?!-)", line) for line in required):
        raise Broken(
            f"{plugin.origin} does not require sidetune; add it to the dependencies in its pyproject.toml"
        )
