"""Rules of the repository's layout that import-linter cannot express."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_folder_with_code_is_a_package_of_the_distribution() -> None:
    declared = set(config()["options"]["packages"].split())
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts).replace("plugins", "sidetune_plugins", 1)
        for folder in ("sidetune_core", "plugins")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert declared == packages


def test_every_file_and_folder_of_a_kind_has_a_registered_component() -> None:
    """One file or one folder per component or family; what they share is private."""
    registered: set[tuple[str, ...]] = set()
    for name, group in config()["options.entry_points"].items():
        if name.startswith("sidetune."):
            targets = [line.split("=")[1].strip() for line in group.strip().splitlines()]
            registered |= {tuple(target.partition(":")[0].split(".")[1:3]) for target in targets}
    modules = [path for path in (ROOT / "plugins").glob("*/*.py") if not path.name.startswith("_")]
    packages = [path.parent for path in (ROOT / "plugins").glob("*/*/__init__.py")]
    assert {(path.parent.name, path.stem) for path in (*modules, *packages)} == registered


def test_the_plugins_folder_cannot_be_imported_by_its_folder_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import plugins"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "reached by name" in done.stderr


def test_the_page_about_the_architecture_lists_every_module_of_a_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w/]+)/` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE))
    core = ROOT / "sidetune_core"
    packages = (path.parent.relative_to(core).as_posix() for path in core.glob("*/**/__init__.py"))
    for package in sorted(packages):
        modules = {path.stem for path in (core / package).glob("*.py")} - {"__init__"}
        if package.partition("/")[0] not in ("cli", "testing"):  # described by what they do
            assert set(re.findall(r"`(\w+)`", rows[package])) == modules, package
