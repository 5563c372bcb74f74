"""All caches are below one root that the environment chooses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidetune_core.io.cache_folders import cache_path, home, in_use, is_in_use, library_caches

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SIDETUNE_HOME": "/big/disk", "XDG_CACHE_HOME": "/xdg"}, Path("/big/disk")),
        ({"SIDETUNE_HOME": "~/own"}, Path.home() / "own"),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/sidetune")),
        ({"SIDETUNE_HOME": "", "XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "sidetune"),
        ({}, Path.home() / ".cache" / "sidetune"),
    ],
)
def test_the_root_is_what_the_environment_says(
    variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SIDETUNE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home() == expected
    assert cache_path(Path("~/.cache/sidetune/data/sets")) == expected / "data" / "sets"
    assert cache_path(Path("~/elsewhere")) == Path.home() / "elsewhere"


def test_folders_of_libraries_are_where_their_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert library_caches() == {"HF_HOME": Path("/models"), "TORCH_HOME": Path("/xdg/torch")}


def test_no_code_but_that_of_the_root_expands_a_path_below_it() -> None:
    """Defaults of options name the root, and their users pass them to `cache_path`."""
    named = {
        path.relative_to(ROOT).as_posix(): text
        for folder in ("sidetune_core", "plugins", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if '"~/.cache/sidetune' in (text := path.read_text(encoding="utf-8"))
    }
    outside = {
        name: re.findall(r"(\w+): Path = option\(\s*Path\(\"~/.cache/sidetune", text)
        for name, text in named.items()
        if name != "sidetune_core/io/cache_folders.py"
    }
    assert outside.pop("sidetune_core/config/option_tables.py") == ["dir"]
    assert outside
    for name, options in outside.items():
        assert len(options) == named[name].count('"~/.cache/sidetune')
        users = [path.read_text(encoding="utf-8") for path in (ROOT / name).parent.glob("*.py")]
        assert any(re.search(r"cache_path\(", text) for text in users), name
        for option in options:
            assert not any(re.search(rf"config\.{option}\.expanduser", text) for text in users), name


def test_a_folder_is_in_use_until_the_last_user_has_left(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    with in_use(tmp_path):
        with in_use(tmp_path):
            assert is_in_use(tmp_path)
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)
