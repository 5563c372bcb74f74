"""How readers are fuzzed: what counts as an answer, how much memory and time one may take, and how a good file is spoilt.

``HYPOTHESIS_PROFILE=long pytest tests/fuzz`` tries a hundred times as many examples, other ones each time.
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

MEMORY = 2**29
"""Most bytes that a test may add to what the process held."""

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
"""What JSON and TOML can hold, and some that looks like what is wanted."""


@st.composite
def spoilt_values(draw: st.DrawFn, good: Any) -> Any:
    """A nested value in which a few places are replaced, taken out, or doubled."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            action = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
            if action == "remove":
                del place[key]
            elif action == "double" and isinstance(place, list):
                place.append(place[key])
            else:
                place[key] = draw(PLAIN)
            break
    return value


@st.composite
def spoilt_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """A file that is cut off, or in which a few stretches are other bytes."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        other = st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"9" * 12, b"(" * 40])
        data[at : at + draw(st.integers(0, 8))] = draw(other)
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.integers(0, 3)) == 0 else bytes(data)


@pytest.fixture(scope="session")
def plain() -> st.SearchStrategy[Any]:
    return PLAIN


@pytest.fixture(scope="session")
def spoil_values() -> Callable[[Any], st.SearchStrategy[Any]]:
    return spoilt_values


@pytest.fixture(scope="session")
def spoil_bytes() -> Callable[[bytes], st.SearchStrategy[bytes]]:
    return spoilt_bytes


@pytest.fixture(scope="session")
def answer() -> Callable[[Callable[[], T]], T | None]:
    """Calls a reader; an error of the house is an answer too, and any other is a defect."""

    def ask(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except SidetuneError:
            return None

    return ask


@pytest.fixture(autouse=True)
def _memory_is_bounded() -> Iterator[None]:
    """The process does not grow by more than `MEMORY`, nor is address space for much more to be had."""
    before = _peak()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 8 * MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _peak() - before < MEMORY


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
