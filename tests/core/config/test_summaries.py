"""One line for each component, without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.config.inventory import LOCAL, Plugin
from sidetune_core.config.kinds import LEARNER, MERGER
from sidetune_core.config.registry import find
from sidetune_core.config.summaries import summary

SOURCE = '''"""A module. It cannot be imported."""
raise SystemExit

class First(Base[int], option=1):
    """Averages `weights` of
    three networks (Kim et al., NeurIPS 2020), e.g. those of (a) and (b). More is here."""

class Bare(First):
    x: int

    def forward(self) -> None:
        """Of the method."""

class Last:

    r"""No full stop"""
'''


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("First", "Averages weights of three networks, e.g. those of (a) and (b)"),
        ("Last", "No full stop"),
        ("Bare", ""),
        ("Absent", ""),
    ],
)
def test_it_is_the_first_sentence_of_the_docstring(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "written_here.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert summary(Plugin(LEARNER, name, LOCAL, "", f"written_here:{name}")) == expected
    assert summary(Plugin(LEARNER, name, LOCAL, "", f"no_such_module:{name}")) == ""


def test_a_built_in_component_has_one() -> None:
    assert summary(find(MERGER, "sum")) == "B + S; the sum of all encodings"
