"""What is put into the guide when it is built is what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from sidetune_core import api
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, KINDS, Kind
from sidetune_core.testing.plugin import check_names

DOCS = Path(__file__).parents[2] / "docs"
UNSHOWN = {
    *("name_resolves_to_a_class_of_its_kind", "can_be_built", "known_failures_are_checks"),
    "padding_has_no_effect",  # of bases of tokens
}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_tables_have_every_check_of_the_kit(hooks: ModuleType, kind: Kind) -> None:
    shown = {check.__name__ for group in ("every kind", kind.name) for check in hooks.CHECKS[group]}
    assert set(check_names(kind.name)) - UNSHOWN == shown


def test_a_line_for_checks_becomes_a_table(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown("before\n\n<!-- checks: merger -->\n")
    row = (
        "| `weights_are_finite_numbers` | `weights` of a merger returns finite floats, which can be logged. |"
    )
    assert f"{row}\n" in page


def test_a_block_with_a_command_for_help_gets_what_it_prints(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = hooks.on_page_markdown("```console\n$ sidetune verify --help\n```\n")
    assert page.startswith("```console\n$ sidetune verify --help\nusage: sidetune verify")
    assert page.endswith("\n```\n")
    assert capsys.readouterr().out == ""


def test_every_page_asks_for_tables_that_there_are(hooks: ModuleType) -> None:
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        catalogue = re.findall("^<!-- catalogue: (.*) -->$", text, re.MULTILINE)
        assert sorted(catalogue) == (sorted(hooks.components.NAMES) if page.name == "catalogue.md" else [])
        text = text.replace("<!-- catalogue", "<!--").replace("console", "text")
        hooks.on_page_markdown(text)  # an unknown kind raises


def test_the_catalogue_has_every_component_of_ours(hooks: ModuleType) -> None:
    for kind in KINDS:
        shown = re.findall(r"^\| `([\w-]+)` \|", hooks.components.table(kind.plural), re.MULTILINE)
        own = [plugin.name for plugin in registry.installed(kind) if plugin.distribution == "sidetune"]
        assert set(own) - set(shown) <= {"habitat"}  # its library wants an environment of its own
        assert set(shown) <= set(own)


def test_the_catalogue_has_the_sides_that_fit_a_base(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = [c for c in hooks.components._default_components(BASE) if c.plugin.name in ("resnet20", "mlp")]
    default = hooks.components._default_components
    monkeypatch.setattr(
        hooks.components, "_default_components", lambda of: bases if of is BASE else default(of)
    )
    mlp, resnet = hooks.components.fitting_sides().splitlines()[2:]
    assert resnet.startswith("| `resnet20` | image 32 x 32 | (64,) |")
    assert {"`fcn4`", "`ladder`"} <= set(resnet.split())
    assert "`ladder`" not in mlp.split()
    assert "`mlp`" in mlp.split("|")[5].split()


def test_every_name_of_the_interface_is_in_a_group(hooks: ModuleType) -> None:
    assert hooks.api_groups.ungrouped() == []
    asked = re.findall("<!-- api: (.*) -->", (DOCS / "reference" / "api.md").read_text(encoding="utf-8"))
    assert asked == [*hooks.api_groups.GROUPS]
    shown = "".join(hooks.api_groups.members(topic) for topic in asked)
    assert sorted(re.findall(r"::: sidetune_core\.api\.(\w+)", shown)) == sorted(api.__all__)
