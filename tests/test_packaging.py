"""What is used to distribute the project agrees with it: Dockerfile, workflows, citation, hooks."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sidetune_core import __version__

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CPU = "--index-url https://download.pytorch.org/whl/cpu"


def instructions(name: str) -> list[str]:
    """The arguments of the Dockerfile's instructions of one name, in order."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def copied_to(folder: Path) -> Path:
    """A folder with what the Dockerfile copies."""
    for arguments in instructions("COPY"):
        *sources, target = arguments.split()
        for source in sources:
            place = folder / target / (Path(source).name if target.endswith("/") and target != "./" else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="runs a shell")
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_image_has_the_tested_pytorch_in_the_build_for_its_device(device: str, tmp_path: Path) -> None:
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\necho "$@"\n')
    pip.chmod(0o755)
    environment = {"PATH": f"{pip.parent}:{os.environ['PATH']}", "DEVICE": device}
    done = subprocess.run(
        ["sh", "-c", instructions("RUN")[0]],
        cwd=copied_to(tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    pinned = re.findall(r"^torch(?:vision)?==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pinned) == 2
    assert done.stdout.split() == [
        *("install", "--no-cache-dir", *pinned),
        *(CPU.split() if device == "cpu" else []),
    ]


def test_what_an_image_copies_is_enough_to_build_and_to_start(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    words = shlex.split(instructions("RUN")[1])
    assert words == ["pip", "install", "--no-cache-dir", ".", "-c", "constraints.txt"]
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target))
    subprocess.run([sys.executable, "-m", *words, *offline], cwd=copied_to(source), check=True)
    (entry,) = instructions("ENTRYPOINT")
    program = target / "bin" / yaml.safe_load(entry)[0]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, str(program), *yaml.safe_load(instructions("CMD")[0])]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: sidetune COMMAND")


def test_pages_and_the_dockerfile_name_one_index_of_builds_for_cpus() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    named = {index for text in texts for index in re.findall(r"--index-url \S+[^\s`]", text)}
    assert named == {CPU}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_the_checks_of_ci_and_needs_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    workflow, ci = yaml.safe_load(text), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands[0].startswith("pip install ")
        for command in commands[1:]:
            program = command.partition(" -n ")[0].removesuffix(" .")
            assert program in ci, f"'{command}' is no command of .ci/run"


def test_hooks_run_the_checks_of_ci() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert entries[:2] == ["ruff check --fix", "ruff format"]
    command = shlex.split(entries[2])[-1]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_citation_has_what_its_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["version"] == __version__
    paper = citation["preferred-citation"]
    assert paper.keys() >= {"type", "title", "authors"}
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
    assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lowest_versions_are_those_that_the_core_declares() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = {}
    for line in config["options"]["install_requires"].split():
        requirement = Requirement(line)
        ((specifier,),) = [list(requirement.specifier)]
        assert specifier.operator == ">="
        declared[requirement.name] = Version(specifier.version)
    pinned = dict(line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text().split())
    assert {name: Version(version) for name, version in pinned.items()} == declared
