"""The source of a plugin: its module and what that imports from its own package."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sidetune_core.config.kinds import MERGER
from sidetune_core.config.plugin_source import source_digest
from sidetune_core.config.registry import LOCAL, Plugin, find

FILES = {
    "odd_package/__init__.py": "",
    "odd_package/merger.py": "from . import near\nfrom odd_package.deep.far import f\nimport json\n",
    "odd_package/near.py": "def use():\n    from .late import x\n",
    "odd_package/late.py": "x = 1\n",
    "odd_package/deep/__init__.py": "",
    "odd_package/deep/far.py": "from ..constants import f\n",
    "odd_package/constants.py": "f = 1\n",
    "odd_package/unused.py": "raise RuntimeError\n",
    "odd_other.py": "y = 1\n",
}
PLUGIN = Plugin(MERGER, "odd", "odd", "1.0", "odd_package.merger:Odd")

Digest = Callable[..., str]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Digest:
    """The digest of a package with some files changed."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(changes: Mapping[str, str] = {}, plugin: Plugin = PLUGIN) -> str:  # noqa: B006
        for name, text in {**FILES, **changes}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return source_digest(plugin)

    return digest


@pytest.mark.parametrize(
    "name", ["merger", "near", "late", "deep/far", "deep/__init__", "constants", "__init__"]
)
def test_what_the_module_imports_from_its_package_counts(name: str, digest: Digest) -> None:
    file = f"odd_package/{name}.py"
    assert digest({file: FILES[file] + "# changed\n"}) != digest()


@pytest.mark.parametrize("file", ["odd_package/unused.py", "odd_other.py"])
def test_other_modules_do_not_count(file: str, digest: Digest) -> None:
    assert digest({file: "changed = True\n"}) == digest()


def test_nothing_is_imported(digest: Digest) -> None:
    digest()
    assert not [name for name in sys.modules if name.startswith("odd_")]


def test_modules_that_import_each_other_are_read_once(digest: Digest) -> None:
    assert len(digest({"odd_package/late.py": "from . import merger\n"})) == 64


def test_a_module_with_a_syntax_error_counts_as_it_is(digest: Digest) -> None:
    assert digest({"odd_package/late.py": "def\n"}) != digest({"odd_package/late.py": "def f\n"})


def test_modules_of_the_current_folder_count_for_code_in_it(
    digest: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = Plugin(MERGER, "mine:Odd", LOCAL, "", "mine:Odd")
    files = {"mine.py": "import odd_other\n"}
    assert digest({**files, "odd_other.py": "y = 2\n"}, plugin) != digest(files, plugin)


def test_a_package_in_a_zip_file_has_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in FILES.items():
            file.writestr(name, text)
    monkeypatch.syspath_prepend(archive)
    assert len(source_digest(PLUGIN)) == 64


def test_a_plugin_without_source_has_none() -> None:
    assert source_digest(Plugin(MERGER, "odd", "odd", "1.0", "no_such_package.merger:Odd")) == ""


def test_a_built_in_plugin_does_not_count_the_others() -> None:
    digests = [source_digest(find(MERGER, name)) for name in ("sidetune/alpha", "sidetune/film")]
    assert digests[0] != digests[1]
