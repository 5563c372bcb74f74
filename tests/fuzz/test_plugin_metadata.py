"""Whatever the metadata of an installed package says, the registry answers, and the other packages stay
usable."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.config.kinds import KINDS, LEARNER
from sidetune_core.config.registry import Plugin, find, installed, load
from sidetune_core.errors import PluginError

METADATA = b"Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n"
ENTRIES = (
    b"[sidetune.learners]\nodd = strange_learner:Odd\n\n[sidetune.envs]\nodd = strange_env:Env [extra]\n"
)


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metadata folder of a distribution on ``sys.path``."""
    folder = tmp_path / "strange-1.0.dist-info"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def write(folder: Path, entries: bytes = ENTRIES, about: bytes = METADATA) -> None:
    (folder / "entry_points.txt").write_bytes(entries)
    (folder / "METADATA").write_bytes(about)


def use(kind: Any = LEARNER) -> None:
    """What `sidetune list` and a run do."""
    for plugin in installed(kind):
        assert isinstance(plugin.title, str)
        if plugin.distribution != "sidetune" and not plugin.distribution.startswith("sidetune"):
            load(plugin)


@given(data=st.data())
def test_spoilt_metadata(data: st.DataObject, strange: Path, spoil_bytes: Any, answer: Any) -> None:
    write(strange, data.draw(spoil_bytes(ENTRIES)), data.draw(st.just(METADATA) | spoil_bytes(METADATA)))
    for kind in KINDS:
        answer(lambda kind=kind: use(kind))
    assert any(plugin.distribution == "sidetune" for plugin in installed(LEARNER))


@given(
    target=st.text(max_size=12)
    | st.from_regex(r"[a-z. ]{0,6}:?[a-zA-Z. ]{0,6}( \[[a-z]*\])?", fullmatch=True)
)
def test_any_target(target: str, answer: Any) -> None:
    answer(lambda: load(Plugin(LEARNER, "odd", "strange", "1.0", target)))


@given(choice=st.text(max_size=12) | st.from_regex(r"[a-z/.]{0,6}:?[a-z/.]{0,6}", fullmatch=True))
def test_any_choice(choice: str, answer: Any) -> None:
    answer(lambda: find(LEARNER, choice))


@pytest.mark.parametrize(
    "entries",
    [
        b"[sidetune.learners]\nodd\n",
        b"[sidetune.learners]\nodd=",
        b"odd = a:b\n",
        b"[sidetune.learners\nodd = a:b\n",
        b"\xff\xfe",
        b"\0",
    ],
)
def test_other_packages_stay_usable_beside_broken_metadata(entries: bytes, strange: Path) -> None:
    write(strange, entries)
    assert find(LEARNER, "ewc").distribution == "sidetune"


@pytest.mark.parametrize("about", [b"", b"\xff\xfe", b"Name: strange\n", b"Version: 1\n"])
def test_other_packages_stay_usable_beside_a_package_without_a_name(about: bytes, strange: Path) -> None:
    write(strange, about=about)
    assert find(LEARNER, "ewc").distribution == "sidetune"


@pytest.mark.parametrize(
    "target", ["", ":", "a b:c", ".x:Y", "os", "os:", "os:path", "nowhere:Odd", "json:", "x:y:z", "a\0b:c"]
)
def test_targets_that_are_told(target: str) -> None:
    with pytest.raises(PluginError, match=r"learner 'odd' \(strange 1.0\)"):
        load(Plugin(LEARNER, "odd", "strange", "1.0", target))


def test_the_fake_distribution_is_seen(strange: Path) -> None:
    write(strange)
    assert metadata.version("strange") == "1.0"
    assert find(LEARNER, "odd").origin == "strange 1.0"
