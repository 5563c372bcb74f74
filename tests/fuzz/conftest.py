"""How readers are fuzzed: accepted answers, limits of memory and time, and how a valid file is corrupted.

``HYPOTHESIS_PROFILE=long pytest tests/fuzz`` tries a hundred times as many, different examples each time.
"""

from __future__ import annotations

import copy
import os
import resource
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sidetune_core.errors import SidetuneError

T = TypeVar("T")

MAX_MEMORY_GROWTH = 2**29
"""Limit on the growth of the process in a test, in bytes."""

COMMON: dict[str, Any] = {
    "deadline": timedelta(seconds=30),
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("default", max_examples=40, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=4000, derandomize=False, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**12, 10**400, -1, 2**63])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["ewc", "test", "t0", "accuracy", "a:b", "os:path", "../x", "\0", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["name", "options"]), inner, max_size=4)
    ),
    max_leaves=8,
)
"""Values of JSON and TOML, some of which resemble valid ones."""


@st.composite
def corrupted_values(draw: st.DrawFn, good: Any) -> Any:
    """A nested value with a few items replaced, removed or duplicated."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            action = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
            if action == "remove":
                del node[key]
            elif action == "double" and isinstance(node, list):
                node.append(node[key])
            else:
                node[key] = draw(PLAIN)
            break
    return value


@st.composite
def corrupted_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """A file that is truncated, or in which a few byte ranges are replaced."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        replacement = st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"9" * 12, b"(" * 40])
        data[start : start + draw(st.integers(0, 8))] = draw(replacement)
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.integers(0, 3)) == 0 else bytes(data)


@pytest.fixture(scope="session")
def plain() -> st.SearchStrategy[Any]:
    return PLAIN


@pytest.fixture(scope="session")
def spoil_values() -> Callable[[Any], st.SearchStrategy[Any]]:
    return corrupted_values


@pytest.fixture(scope="session")
def spoil_bytes() -> Callable[[bytes], st.SearchStrategy[bytes]]:
    return corrupted_bytes


@pytest.fixture(scope="session")
def answer() -> Callable[[Callable[[], T]], T | None]:
    """Calls a reader; a `SidetuneError` is an answer too, any other error is a defect."""

    def ask(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except SidetuneError:
            return None

    return ask


@pytest.fixture(autouse=True)
def _memory_is_bounded() -> Iterator[None]:
    """The process does not grow by more than `MAX_MEMORY_GROWTH`; its address space is limited too."""
    before = _peak()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 8 * MAX_MEMORY_GROWTH, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _peak() - before < MAX_MEMORY_GROWTH


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
