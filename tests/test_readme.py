"""The README's commands and examples work as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from sidetune_core.cli.main import main, main_run
from sidetune_core.config import registry
from sidetune_core.config.kinds import KINDS
from sidetune_core.ledger import claims

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = "iCIFAR, the original budget"
FORK, INDEPENDENT = "side-tuning, fork of four blocks", "independent networks, one-cycle"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_twenty_line_learner_runs_from_the_current_folder(tmp_path: Path, image_archive: Path) -> None:
    (code,) = [block for block in blocks("python") if "(Learner)" in block]
    (tmp_path / "my_learner.py").write_text(code)
    assert len(code.strip().splitlines()) <= 24
    argv = "--learner my_learner:NormTune --base resnet20 --base.weights none --env images --train.steps 3"
    code = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"
    words = [sys.executable, "-c", code, *f"{argv} --env.archive {image_archive}".split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\naccuracy " in done.stdout  # one task: one number


def test_own_images_are_learnt_and_what_was_trained_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path)
    (block,) = [block for block in blocks("sh") if "sidetune predict" in block]
    quick = "--base.weights none --train.steps 1 --quiet"
    for line in (line.partition("#")[0].strip() for line in block.strip().splitlines()):
        program, _, argv = line.partition(" ")
        more = quick if "torchvision" in line else "--quiet" if "--extend" in line else ""
        function = main_run if program == "sidetune-run" else main
        assert function(f"{argv} {more}".split()) == 0, f"{line}: {capsys.readouterr().err}"
    (code,) = [block for block in blocks("python") if "sidetune_core.load(" in block]
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.count("ClassPrediction") == 3  # one for each task, the added one too


def draw_photos(folder: Path) -> None:
    """Images of one colour each, of two customers and a further one, and a new one."""
    for task, names in (("photos/acme", "ab"), ("photos/bolt", "cd"), ("more/ceta", "ef")):
        for name, index in product(names, range(3)):
            path = folder / task / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (40 * ord(name) % 256, 60 * index, 90)).save(path)
    (folder / "new").mkdir()
    Image.new("RGB", (90, 70), (200, 60, 90)).save(folder / "new" / "1.jpg")


def test_the_table_of_components_lists_registered_components_only() -> None:
    for kind in KINDS:
        (row,) = re.findall(rf"^\| {kind.name}[ ,][^|]* \| (.*) \|$", README, re.MULTILINE)
        own = {plugin.name for plugin in registry.installed(kind) if plugin.distribution == "sidetune"}
        named = set(re.findall(r"`([a-z0-9-]+)`", row))
        assert len(named) >= 4
        assert named <= own


def test_it_is_read_in_one_go() -> None:
    lines = README.splitlines()
    assert len(lines) <= 140
    assert [line for line in lines if len(line) > 100] == []


def test_its_results_are_those_of_the_ledger() -> None:
    entries = [claims.read_entry(ROOT / "ledger", name) for name in claims.names(ROOT / "ledger")]
    table = claims.write_up([entry for entry in entries if entry.claim.table == TABLE], "markdown")
    recorded = cells(table)
    rows = cells(README.partition("## How good is it?")[2].partition("## ")[0])
    assert len(rows) == 6
    for method, (accuracy, forgetting, trainable, total) in rows.items():
        _, average, _, lost, _, _, weights, parameters = recorded[method]
        assert [accuracy, forgetting, trainable, total] == [average, lost, weights, parameters]
    fork, independent = (rows[name][2] for name in (FORK, INDEPENDENT))
    ratio = int(fork.replace(",", "")) / int(independent.replace(",", ""))
    assert f"{ratio:.0%} of the weights".replace("%", " %") in README


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row of a Markdown table by the first one, without its head."""
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines if len(line) == len(lines[0])]
    return {name: cells for name, *cells in rows[1:]}


def test_its_links_lead_to_files() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)]
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []


def test_the_commands_in_it_exist() -> None:
    verbs = set(re.findall(r"^sidetune ([a-z]+)", "".join(blocks("sh")), re.MULTILINE))
    assert verbs
    for verb in verbs:
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert not end.value.code
