"""What the guide for authors shows is what happens: every block of code in it is run.

The blocks of a page are run in their order, in an empty folder. A block with a title is a file, and is
written there. Other blocks of Python share one namespace. In a block for the console, what follows ``$`` is
run, and what is shown below it has to be what is printed, where ``...`` stands for anything; where nothing
is shown, the command has to succeed. Blocks for the shell (``sh``) have commands that need data or take
minutes: their runs and sweeps are composed, with ``--dry-run``.
"""

from __future__ import annotations

import doctest
import glob
import os
import re
import shlex
import site
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from sidetune_core.cli import main

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"habitat.md"}
"""Needs libraries that want an environment of their own; what it says is tested there, in
tests/plugins/envs/habitat."""
PAGES = sorted({page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - ELSEWHERE)
FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.DOTALL | re.MULTILINE
)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
COMPOSES = re.compile(r"(sidetune-run|sidetune sweep) (?!.*--(spec|resume|extend|help|dry-run)\b)")
"""Commands of a shell block that need no file to be composed."""
INSTALLED = ".installed"
"""Where a page's packages are installed: on the path of this process, and by a ``sitecustomize`` on that of
every other."""

OURS = {"sidetune": main.main, "sidetune-run": main.main_run}


@attrs.frozen
class Block:
    """A block of code of a page."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(*found.group("language", "title", "text"), text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


@attrs.define
class Reader:
    """Somebody who does what a page says."""

    page: str
    folder: Path
    capsys: pytest.CaptureFixture[str]
    namespace: dict[str, Any] = attrs.field(factory=lambda: {"__name__": "page"})

    def do(self, block: Block) -> None:
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            if block.language == "toml":
                tomllib.loads(block.text)
        elif block.language == "python":
            source = "\n" * block.line + block.text  # so that a traceback has the line of the page
            exec(compile(source, str(DOCS / self.page), "exec"), self.namespace)
        elif block.language == "console":
            for command, shown in COMMAND.findall(re.sub(r"\\\n\s*", "", block.text)):
                self.type(command, shown)
        elif block.language == "sh":
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                command = shlex.join(shlex.split(line, comments=True))
                if COMPOSES.match(command):
                    self.type(f"{command} --dry-run", "")

    def type(self, command: str, shown: str) -> None:
        """Type a command, and compare what it prints with what is shown."""
        status, printed = self.run(command)
        wanted = 2 if shown.startswith("error: ") else 1 if re.search("^FAIL ", shown, re.MULTILINE) else 0
        assert status == wanted, f"{self.page}: {command}\nends with {status} instead of {wanted}:\n{printed}"
        if shown:
            agrees = doctest.OutputChecker().check_output(_plain(shown), _plain(printed), doctest.ELLIPSIS)
            assert agrees, f"{self.page}: {command}\nshown:\n{shown}\nprinted:\n{printed}"

    def run(self, command: str) -> tuple[int, str]:
        """The exit status and the output of a command: standard error where a command of ours refuses
        something.
        """
        program, *words = shlex.split(command)
        if program in OURS:
            self.forget()
            self.capsys.readouterr()
            words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
            try:
                status = OURS[program](words)
            except SystemExit as end:  # --help
                status = end.code if isinstance(end.code, int) else 0
            printed = self.capsys.readouterr()
            return status, printed.err if status == 2 else printed.out
        if program == "pip":
            return self.pip(*words)
        if program == "pytest":
            return _process(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *words)
        if program == "python":
            return _process(sys.executable, *words)
        return _process(program, *words)

    def pip(self, verb: str, *words: str) -> tuple[int, str]:
        """The pip of this environment, which installs beside the page's folder and downloads nothing."""
        alone = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
        place = self.folder / INSTALLED
        target = ["--prefix", str(place)] if verb == "install" else []
        done = _process(sys.executable, "-m", "pip", verb, *alone, *target, *words)
        for packages in place.rglob("site-packages"):
            site.addsitedir(str(packages))
            (place / "sitecustomize.py").write_text(
                f"import site; site.addsitedir({str(packages)!r})", encoding="utf-8"
            )
        return done

    def forget(self) -> None:
        """Forget the modules of the page's folder: a new process would not know them, and their files may
        have changed.
        """
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]


def _process(*words: str) -> tuple[int, str]:
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    return done.returncode, done.stdout + (done.stderr if done.returncode else "")


def _plain(text: str) -> str:
    """Without blanks at the ends of lines, and without empty lines, which a block would show as they come."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in; what is imported from it is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / INSTALLED))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_happens(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Reader(page, folder, capsys)
    try:
        for block in blocks(page):
            reader.do(block)
    finally:
        reader.forget()


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_is_left_out(page: str) -> None:
    found = blocks(page)
    assert 2 * len(found) == (DOCS / page).read_text(encoding="utf-8").count("```"), (
        "a fence has no language, or is indented"
    )
    for block in found:
        console = block.language == "console" and block.text.startswith("$ ")
        runs = block.title is not None or block.language in ("python", "sh") or console
        assert runs, f"{page}, line {block.line}: a {block.language} block is not run"


def test_what_is_not_printed_and_what_does_not_end_well_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader("a page", folder, capsys)
    reader.do(Block("console", None, "$ sidetune list mergers\nmergers ...\n...\n", 1))
    with pytest.raises(AssertionError, match=r"shown:\s+bases"):
        reader.do(Block("console", None, "$ sidetune list mergers\nbases ...\n...\n", 1))
    with pytest.raises(AssertionError, match="ends with 2 instead of 0"):
        reader.do(Block("console", None, "$ sidetune list merger-s\n", 1))
