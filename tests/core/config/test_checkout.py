"""The plugin packages of a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.config import registry
from sidetune_core.config.checkout import FOLDER, not_installed
from sidetune_core.config.inventory import Inventory, Plugin
from sidetune_core.config.kinds import BASE, KINDS, LEARNER
from sidetune_core.errors import PluginError

PYPROJECT = """
[project]
name = "acme-plugins"
[project.entry-points."sidetune.learners"]
ewx = "acme:EWX"
first = "acme:First"
[project.entry-points."sidetune.bases"]
wide = "acme:Wide"
"""


def inventory(*learners: tuple[str, str]) -> Inventory:
    """What is installed: learners, each with its distribution."""
    plugins = dict.fromkeys(KINDS, ())
    listed = tuple(Plugin(LEARNER, name, distribution, "1", "m:C") for name, distribution in learners)
    return Inventory({**plugins, LEARNER: listed}, (), dict.fromkeys(KINDS, ()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"acme": PYPROJECT, "broken": "[project", "other": "[project]\nname = 'other'\n"}
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_packages_have_the_components_that_are_not_installed(folder: Path) -> None:
    (package,) = not_installed(inventory(), KINDS, folder)
    assert package.name == "acme-plugins"
    assert package.components == {LEARNER: ("ewx", "first"), BASE: ("wide",)}
    (package,) = not_installed(inventory(("first", "Acme_Plugins"), ("ewx", "another")), [LEARNER], folder)
    assert package.components == {LEARNER: ("ewx",)}
    both = inventory(("first", "acme-plugins"), ("ewx", "acme-plugins"))
    assert not_installed(both, [LEARNER], folder) == []


def test_the_command_has_a_path_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package,) = not_installed(inventory(), KINDS, folder)
    monkeypatch.chdir(folder)
    assert package.command == "pip install ./acme"
    monkeypatch.chdir(folder / "other")
    assert package.command == f"pip install {folder / 'acme'}"


def test_a_learner_of_a_package_that_is_not_installed_is_answered_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    with pytest.raises(PluginError) as error:
        registry.find(LEARNER, "er", inventory=inventory(("ewc", "sidetune")))
    assert str(error.value) == (
        "learner 'er' is in sidetune-replay, a package of this checkout: "
        "pip install ./examples/sidetune-replay"
    )
