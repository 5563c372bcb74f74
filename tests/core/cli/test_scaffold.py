"""`sidetune new` writes a package to go on from; that it installs and runs is in test_third_party."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sidetune_core.cli.main import main
from sidetune_core.config.kinds import KINDS, Kind
from sidetune_core.testing import check_plugin


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_new_part_conforms(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", kind.name, f"my-{kind.name}"]) == 0
    folder = tmp_path / f"sidetune-my-{kind.name}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == folder.name
    ((name, target),) = project["project"]["entry-points"][kind.group].items()
    assert name == f"my-{kind.name}"
    monkeypatch.syspath_prepend(folder)
    assert [finding for finding in check_plugin(kind.name, target) if not finding.passed] == []
    compile((folder / "tests" / f"test_my_{kind.name}.py").read_text(), "test", "exec")


def test_what_to_do_next_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert main(["new", "learner", "my_method", "--out", str(folder)]) == 0
    assert (
        f"pip install -e {folder} && sidetune check learner my_method && sidetune-run --learner my_method"
        in capsys.readouterr().out
    )
    assert (folder / "sidetune_my_method" / "my_method.py").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learner", "My Method"], "cannot be the name of a learner: use lower-case letters"),
        (["learner", "class"], "cannot be the name"),
        (["learner", "ewc"], "already provides a learner 'ewc'"),
        (["lerner", "mine"], "no kind of plugin is called 'lerner'. Did you mean 'learner'?"),
        (["learner", "mine", "--out", "full"], "full is not empty; choose another --out"),
    ],
)
def test_what_cannot_be_is_told(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    assert main(["new", *words]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "precious"]
