"""What the documentation and the messages tell people to install can be installed from a clone.

No package of the project is on an index. An extra of an installed sidetune is installed by
``pip install 'sidetune[EXTRA]'``, everything else by a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs", "examples", "sidetune_core", "plugins")
COMMAND = re.compile(r"\bpip install ([^`\n#&]*)")


def test_nothing_of_ours_is_installed_by_its_name_alone() -> None:
    bare = re.compile(r"(?<![\w./-])['\"]?sidetune(-\w+)*['\"]?(?![\w.\[/-])")
    found = [(name, words) for name, words in commands() if not words.startswith("-e ")]
    assert [(name, words) for name, words in found if bare.search(words)] == []


def test_an_extra_that_is_named_exists() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    named = {
        extra.strip()
        for _, words in commands()
        for group in re.findall(r"(?:sidetune|\.)\[([\w, -]+)\]", words)
        for extra in group.split(",")
    }
    assert len(named) > 5
    assert named - extras == set()


def test_a_path_that_is_named_is_a_package() -> None:
    paths = {path for _, words in commands() for path in re.findall(r"\./examples/[\w-]+", words)}
    assert {path.rpartition("/")[2] for path in paths} == {
        package.parent.name for package in ROOT.glob("examples/sidetune-*/pyproject.toml")
    }


def commands() -> Iterator[tuple[str, str]]:
    """The words after each ``pip install``, with the name of the file."""
    for root in PAGES:
        path = ROOT / root
        files = [path] if path.is_file() else sorted([*path.rglob("*.md"), *path.rglob("*.py")])
        for file in files:
            for words in COMMAND.findall(file.read_text(encoding="utf-8")):
                yield file.relative_to(ROOT).as_posix(), words
