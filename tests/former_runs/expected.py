"""Write expected.json: what sidetune of commit d09cce8 reports about the archives (install it first)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if not (HERE / "expected.json").exists():
    (HERE / "expected.json").write_text("{}")

import test_former_runs as former  # noqa: E402

import sidetune_core  # noqa: E402
from sidetune_core.cli import main, main_run  # noqa: E402


def said(words: list[str]) -> tuple[int, str]:
    """Exit status and output of ``sidetune``."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        return main(words), out.getvalue()


def look(run: str) -> dict[str, Any]:
    """Everything about a run."""
    found: dict[str, Any] = {"R": former.read_matrix(Path("runs") / run)}
    found["printed"] = former.matrix(said(["report", f"runs/{run}"])[1])
    found["csv"] = former.numbers(said(["report", f"runs/{run}", "--format", "csv"])[1])
    if not run.startswith("seed"):
        status, text = said(["verify", f"runs/{run}"])
        found["verify"] = [status, former.verdict(text)]
    if run.endswith("killed"):
        assert main_run(["--resume", f"runs/{run}", "--quiet"]) == 0
        path = Path("runs") / run
        found["resumed"] = {"R": former.read_matrix(path), "losses": former.read_losses(path)}
    return found


def write() -> None:
    """Replace what is known of the archives that the arguments name."""
    path = HERE / "expected.json"
    expected = json.loads(path.read_text())
    names = sys.argv[1:]
    os.environ["SIDETUNE_HOME"] = os.getcwd() + "/home"
    for run in [*former.RUNS, "seed/done"]:
        name = run.split("/")[0]
        if name in names:
            former.extract(name, Path())
            expected[run] = look(run)
    if "sweep" in names:
        former.extract("sweep", Path())
        swept = sorted(map(str, Path("runs/sweep/runs").iterdir()))
        expected["sweep"] = {"csv": former.numbers(said(["report", *swept, "--format", "csv"])[1])}
    if "ledger" in names:
        former.extract("ledger", Path())
        former.extract("images", Path())
        plan = said(["sweep", str(HERE / "specs" / "grid.toml"), "--out", "sweep", "--dry-run"])[1]
        expected["grid"] = {"runs": plan.count("\nnew ")}
        text = said(["ledger", "--ledger", str(HERE / "ledger"), "--format", "markdown"])[1]
        rows = [line for line in text.splitlines() if re.match(r"\| (?!method|:)", line)]
        runs = sorted(Path("runs/ledger/images-tiny").iterdir())
        expected["ledger"] = {
            "rows": [re.findall(r"\d[\d,.]*", row.split("|", 2)[2]) for row in rows],
            "seconds": [(run / "seconds.jsonl").read_text() for run in runs],
        }
    root = Path(sidetune_core.__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    expected["commit"] = head.stdout.strip()
    text = json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write()
