"""Changelog fragments are well formed, and a release collects them all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from scriv.collect import collect

ROOT = Path(__file__).parent.parent
FRAGMENTS = [path for path in sorted((ROOT / "changelog.d").glob("*")) if path.name != "README.md"]
CATEGORIES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def malformed(text: str) -> list[str]:
    """The lines of a fragment that are neither a category, nor a bullet, nor the continuation of one."""
    heading = rf"### ({'|'.join(CATEGORIES)})"
    allowed = re.compile(rf"{heading}|- \S.*|  .*\S|")
    lines = text.splitlines()
    wrong = [line for line in lines if not allowed.fullmatch(line)]
    first = next((line for line in lines if line), "")
    return wrong or ([] if re.fullmatch(heading, first) and "\n- " in text else [first])


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_has_bullets_under_known_headings(path: Path) -> None:
    assert path.suffix == ".md"
    assert malformed(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["- no heading\n", "### New\n\n- a\n", "### Added\n", "### Added\n\ntext\n", "### Added\n\n* a\n"]
)
def test_another_form_is_refused(text: str) -> None:
    assert malformed(text)


def test_a_release_collects_every_bullet_under_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "changelog.d").mkdir()
    for name in "ab":
        text = f"### Fixed\n\n- Fix {name}.\n\n### Added\n\n- Add {name}.\n"
        (tmp_path / "changelog.d" / f"{name}.md").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = Path("CHANGELOG.md").read_text(encoding="utf-8")
    collect.main(["--version", "7.0.0"], standalone_mode=False)
    after = Path("CHANGELOG.md").read_text(encoding="utf-8")
    added = after.removeprefix(before.partition("<!-- scriv-insert-here -->")[0])
    release = added.partition("## 0.1.0")[0]
    assert re.search(r"^## 7\.0\.0 \(\d{4}-\d\d-\d\d\)$", release, re.MULTILINE)
    assert re.findall(r"^(?:###|-) .*$", release, re.MULTILINE) == [
        *("### Added", "- Add a.", "- Add b.", "### Fixed", "- Fix a.", "- Fix b.")
    ]
    assert list(Path("changelog.d").iterdir()) == []
