"""Metadata of installed packages, any of which may be damaged."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

ENTRY_POINTS = "entry_points.txt"

# the standard library's own readers, which raise an error for a damaged file
_entry_points: Any = vars(metadata.Distribution)["entry_points"]
_path_text: Any = vars(metadata.PathDistribution)["read_text"]


def entry_points(
    distribution: metadata.Distribution, groups: Collection[str]
) -> list[tuple[metadata.EntryPoint, ...]]:
    """The entry points of a distribution in each of some groups.

    Raises:
        ValueError: its ``entry_points.txt`` is malformed, in whatever group; the message says where.
    """
    try:
        text = _read_text(distribution, ENTRY_POINTS) or ""
    except UnicodeDecodeError:
        raise ValueError(f"{ENTRY_POINTS} is not UTF-8") from None
    if line := _malformed_line(text):
        raise ValueError(f"{ENTRY_POINTS} is malformed: {line}")
    if not any(group in text for group in groups):  # most packages have no plugins: they are not parsed
        return [() for _ in groups]
    entries = _entry_points.fget(distribution)
    return [tuple(entries.select(group=group)) for group in groups]


def field(distribution: metadata.Distribution, name: str) -> str:
    """A field of its metadata, empty where there is none."""
    try:
        fields = distribution.metadata
        return str(fields[name]) if name in fields else ""
    except (TypeError, ValueError, metadata.PackageNotFoundError):  # no file, or not UTF-8
        return ""


def location(distribution: metadata.Distribution) -> str:
    """The folder of its metadata, which is known also where its name cannot be read."""
    return str(getattr(distribution, "_path", "a package without a path"))


def packages_distributions() -> dict[str, list[str]]:
    """`importlib.metadata.packages_distributions`, without the packages whose metadata cannot be read."""
    with damaged_metadata_skipped():
        return {
            module: [name for name in names if name]
            for module, names in metadata.packages_distributions().items()
        }


@contextmanager
def damaged_metadata_skipped() -> Iterator[None]:
    """Within the block, scans of all entry points find none in a damaged file, instead of failing.

    torch, gymnasium, transformers, and typeguard (for tyro) scan the metadata of all packages when they are
    imported: one malformed file, of a package that has nothing to do with sidetune, would break every
    command. The readers of the standard library are replaced, which all of them use.
    """
    replaced = {
        (metadata.Distribution, "entry_points"): property(_entry_points_or_none),
        (metadata.PathDistribution, "read_text"): _text_or_none,
    }
    before = {(cls, name): vars(cls)[name] for cls, name in replaced}
    for (cls, name), reader in replaced.items():
        setattr(cls, name, reader)
    try:
        yield
    finally:
        for (cls, name), reader in before.items():
            setattr(cls, name, reader)


def _entry_points_or_none(distribution: metadata.Distribution) -> metadata.EntryPoints:
    try:
        found: metadata.EntryPoints = _entry_points.fget(distribution)
        return found
    except (TypeError, ValueError):
        return metadata.EntryPoints(())


def _read_text(distribution: metadata.Distribution, filename: str) -> str | None:
    is_path = isinstance(distribution, metadata.PathDistribution)
    text: str | None = _path_text(distribution, filename) if is_path else distribution.read_text(filename)
    return text


def _text_or_none(distribution: metadata.PathDistribution, filename: str) -> str | None:
    try:
        return _read_text(distribution, filename)
    except UnicodeDecodeError:
        return None


def _malformed_line(text: str) -> str:
    """The first line that is neither a group nor an entry, for a message; empty if there is none."""
    in_group = False
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith("[") and line.endswith("]"):
            in_group = True
        elif line and not line.startswith("#"):
            if not in_group:
                return f"line {number}, '{line[:40]}', precedes the first [group]"
            if "=" not in line:
                return f"line {number}, '{line[:40]}', has no '='"
    return ""
