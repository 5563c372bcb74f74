"""Ids of Minari's data sets that are not on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.demonstrations import check_downloaded
from sidetune_core.errors import DataError


@pytest.fixture(autouse=True)
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's folder, with one data set."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = tmp_path / "D4RL" / "door" / "human-v2" / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text("{}")
    return tmp_path


def test_all_that_are_missing_are_named_with_the_command_that_downloads_them(tmp_path: Path) -> None:
    ids = [Path("D4RL/door/human-v1"), Path("D4RL/door/human-v2"), Path("atari/pong/expert-v0")]
    with pytest.raises(DataError) as raised:
        check_downloaded(ids)
    assert str(raised.value) == (
        "D4RL/door/human-v1, atari/pong/expert-v0 are no folders here and no data sets of Minari in "
        f"{tmp_path}. Did you mean 'D4RL/door/human-v2'? Download them: "
        "minari download D4RL/door/human-v1 && minari download atari/pong/expert-v0"
    )


def test_those_that_resemble_no_other_are_answered_with_what_is_here() -> None:
    with pytest.raises(DataError, match=r"\. Downloaded: D4RL/door/human-v2\. Download it: minari download"):
        check_downloaded([Path("x-v0")])


def test_what_is_here_and_what_is_no_id_is_left_to_its_reader(downloaded: Path) -> None:
    (downloaded / "mine-v0").mkdir()
    check_downloaded([Path("D4RL/door/human-v2"), downloaded / "mine-v0", Path("runs/x"), Path("x.npz")])
