"""Rules of the repository's layout that import-linter cannot express."""

from __future__ import annotations

import configparser
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
    existing = {
        ".".join(path.parent.relative_to(ROOT).parts).replace("plugins", "sidetune_plugins", 1)
        for folder in ("sidetune_core", "plugins")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert declared == existing


def test_every_plugin_file_is_registered() -> None:
    entries = config()["options.entry_points"]
    registered = {
        line.split("=")[1].strip().split(":")[0]
        for group in entries.values()
        for line in group.strip().splitlines()
    }
    for path in (ROOT / "plugins").glob("*/*.py"):
        if not path.name.startswith("_"):
            assert f"sidetune_plugins.{path.parent.name}.{path.stem}" in registered


def test_the_plugins_folder_cannot_be_imported_by_its_folder_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import plugins"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "reached by name" in done.stderr
