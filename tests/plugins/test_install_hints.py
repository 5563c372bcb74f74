"""Each built-in component whose library is missing says what to install, as the README and the guide do."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidetune_core.config.kinds import KINDS
from sidetune_core.config.registry import Plugin, installed, load
from sidetune_core.errors import PluginError

ROOT = Path(__file__).parents[2]
LIBRARIES = ("gymnasium", "habitat", "timm", "transformers")
"""The optional libraries that modules of components import."""

OWN_ENVIRONMENT = "pip install -e '.[habitat]' -c constraints-habitat.txt"
HINTS = {
    ("gymnasium", "gym"): "pip install 'sidetune[rl]'",
    ("habitat", "habitat"): OWN_ENVIRONMENT,
    ("timm", "timm"): "pip install 'sidetune[timm]'",
    ("transformers", "hf-vision"): "pip install 'sidetune[nlp]'",
    ("transformers", "squad"): "pip install 'sidetune[nlp]'",
    ("transformers", "hf-text"): "pip install 'sidetune[nlp]'",
    ("transformers", "minilm"): "pip install 'sidetune[nlp]'",
    ("transformers", "transformer"): "pip install 'sidetune[nlp]'",
}
OWN = [plugin for known in KINDS for plugin in installed(known) if plugin.distribution == "sidetune"]


@pytest.fixture(params=LIBRARIES)
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library that cannot be imported. The modules of plugins are imported from scratch, and put back."""
    before = {name: module for name, module in sys.modules.items() if name.startswith("sidetune_plugins.")}
    monkeypatch.setitem(sys.modules, request.param, None)  # the import system takes it for missing
    for name in before:
        del sys.modules[name]
    yield request.param
    for name in [name for name in sys.modules if name.startswith("sidetune_plugins.")]:
        del sys.modules[name]
    sys.modules.update(before)


def without(library: str) -> dict[tuple[str, str], str]:
    """The messages of all components that cannot be loaded, by missing library and name."""
    messages = {}
    for plugin in OWN:
        if message := failure(plugin):
            messages[library, plugin.name] = message
    return messages


def failure(plugin: Plugin) -> str:
    try:
        load(plugin)
    except PluginError as error:
        return str(error)
    return ""


def test_every_component_without_its_library_names_the_command(missing: str) -> None:
    has_habitat = missing != "habitat" and importlib.util.find_spec("habitat") is not None
    expected = {key: hint for key, hint in HINTS.items() if key[0] == missing}
    if not has_habitat:
        expected[missing, "habitat"] = OWN_ENVIRONMENT
    elif missing == "gymnasium":
        expected[missing, "habitat"] = "pip install 'sidetune[habitat]'"
    messages = without(missing)
    assert messages.keys() == expected.keys()
    assert {key: hint for key, hint in expected.items() if hint not in messages[key]} == {}


def test_every_extra_that_a_message_names_is_in_the_guide() -> None:
    sources = [path for folder in ("sidetune_core", "plugins") for path in (ROOT / folder).rglob("*.py")]
    named = {extra for path in sources for extra in re.findall(r"sidetune\[(\w+)\]", path.read_text("utf-8"))}
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert named >= {"figure", "nlp", "ray", "rl"}
    assert [extra for extra in sorted({*named, "habitat", "timm"}) if f"[{extra}]'" not in pages] == []
