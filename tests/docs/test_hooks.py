"""What is put into the guide when it is built is what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sidetune_core.config.kinds import KINDS, Kind
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
        hooks.on_page_markdown(
            page.read_text(encoding="utf-8").replace("console", "text")
        )  # an unknown kind raises
