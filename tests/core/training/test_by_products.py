"""A run continues without by-products that are damaged, missing, or cannot be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sidetune_core
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.verdicts import INCOMPLETE
from sidetune_core.cli.main import main
from sidetune_core.errors import RunError
from sidetune_core.results.summary import read_results, summarise
from sidetune_core.storage.run_folder import RunFolder

TINY = Path(__file__).parent / "kills"
TASKS = 3
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of three tasks."""
    folder = tmp_path_factory.mktemp("whole")
    random = np.random.default_rng(0)
    labels = {split: np.tile(np.arange(2 * TASKS), each) for split, each in (("train", 10), ("test", 4))}
    images = {
        split: random.integers(0, 255, (len(y), 8, 8, 3)).astype(np.uint8) for split, y in labels.items()
    }
    arrays: dict[str, Any] = {f"x_{split}": x for split, x in images.items()} | {
        f"y_{split}": y for split, y in labels.items()
    }
    np.savez(folder / "images.npz", **arrays)
    env = {"name": "images", "archive": folder / "images.npz", "classes_per_task": 2, "image_size": 8}
    spec = sidetune_core.RunSpec(
        base="tiny:TinyBase",
        side="tiny:TinySide",
        merger="alpha",
        learner="sidetune",
        env=env,
        train={"steps": 2, "batch_size": 5},
        device={"name": "cpu", "precision": "fp32"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        sidetune_core.run(spec, folder / "run")
        yield folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, killed in its last task."""
    monkeypatch.syspath_prepend(str(TINY))
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in path.glob("checkpoints/after-003.*"):
        name.unlink()
    (path / "status").write_text("running\n")
    return path


def file_in_place(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_text("a file")


def folder_in_place(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def without_certificate(run: Path) -> None:
    for name in ("certificate.json", "certificate.jsonl"):
        (run / name).unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tb is a file": lambda run: file_in_place(run / "tb"),
    "tb has other files": lambda run: (run / "tb" / "events.out.tfevents.0").write_bytes(b"\0damaged"),
    "pictures is a file": lambda run: file_in_place(run / "pictures"),
    "documents is a file": lambda run: file_in_place(run / "documents"),
    "report.md is a folder": lambda run: folder_in_place(run / "report.md"),
    "seconds.jsonl is a folder": lambda run: folder_in_place(run / "seconds.jsonl"),
    "seconds.jsonl is damaged": lambda run: (run / "seconds.jsonl").write_text("{}\n"),
    "log.txt is a folder": lambda run: folder_in_place(run / "log.txt"),
    "certificate.json is missing": lambda run: (run / "certificate.json").unlink(),
    "certificate.json is damaged": lambda run: (run / "certificate.json").write_text('{"format": 2}'),
    "certificate.json is no text": lambda run: (run / "certificate.json").write_bytes(b"\xff\0"),
    "certificate.json is a folder": lambda run: folder_in_place(run / "certificate.json"),
    "both certificates are missing": without_certificate,
    "certificate.jsonl is missing": lambda run: (run / "certificate.jsonl").unlink(),
    "certificate.jsonl is damaged": lambda run: (run / "certificate.jsonl").write_text("{}\n"),
    "probes are missing": lambda run: shutil.rmtree(run / "probes"),
    "probes is a file": lambda run: file_in_place(run / "probes"),
    "probes are damaged": lambda run: (run / "probes" / "t0.safetensors").write_bytes(b"damaged"),
}


LEFT_OUT = {
    "tb is a file": "tb",
    "report.md is a folder": "report.md",
    "seconds.jsonl is a folder": "seconds.jsonl",
    "log.txt is a folder": "log.txt",
    "probes is a file": "probes",
    "both certificates are missing": "certificate.json",
    "certificate.jsonl is missing": "certificate.jsonl",
}
"""By damage, what a run continues without."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_by_product_does_not_stop_a_run_and_is_named(
    run: Path, whole: Path, damage: str, capsys: Capture
) -> None:
    DAMAGES[damage](run)
    sidetune_core.resume(run, trust_local_code=True)
    if damage in LEFT_OUT:
        assert str(run / LEFT_OUT[damage]) in capsys.readouterr().err
    assert (run / "status").read_text() == "done\n"
    names = ["metrics.jsonl", "checkpoints/after-003.safetensors"]
    if not damage.startswith(("both", "probes")):  # tasks without record or probes are all measured
        names.append("eval.jsonl")
    for name in names:
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert read_results(RunFolder(run)) == read_results(RunFolder(whole))


def test_what_is_left_out_is_named_once(run: Path, capsys: Capture) -> None:
    file_in_place(run / "tb")
    sidetune_core.resume(run, trust_local_code=True)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_record_whose_probes_have_changed_is_dropped(run: Path, capsys: Capture) -> None:
    path = run / "probes" / "t0.safetensors"
    path.write_bytes((run / "probes" / "t1.safetensors").read_bytes())  # whole, and of another task
    sidetune_core.resume(run, trust_local_code=True)
    assert f"the probes {path} have changed since they were written" in capsys.readouterr().err
    certificate = read_certificate(RunFolder(run))
    assert certificate is not None
    assert certificate.verdict == INCOMPLETE
    assert [record.id for record in certificate.tasks] == ["t1", "t2"]


@pytest.mark.parametrize("name", ["certificate.json", "certificate.jsonl"])
def test_a_certificate_that_has_lost_one_of_its_files_is_rebuilt_from_the_other(
    name: str, run: Path, whole: Path
) -> None:
    (run / name).unlink()
    sidetune_core.resume(run, trust_local_code=True)
    assert read_certificate(RunFolder(run)) == read_certificate(RunFolder(whole))


def test_a_lost_certificate_has_records_of_later_tasks_only(run: Path) -> None:
    without_certificate(run)
    sidetune_core.resume(run, trust_local_code=True)
    certificate = read_certificate(RunFolder(run))
    assert certificate is not None
    assert (certificate.verdict, certificate.trained) == (INCOMPLETE, ["t0", "t1", "t2"])
    assert [record.id for record in certificate.tasks] == ["t2"]
    assert [stage.tasks for stage in certificate.stages] == [["t0"], ["t1"], ["t2"]]


def test_nothing_is_claimed_for_an_incomplete_certificate(run: Path, capsys: Capture) -> None:
    without_certificate(run)
    sidetune_core.resume(run, trust_local_code=True)
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "zero by construction" not in report
    assert "Not certified: some tasks have no record" in report
    assert main(["verify", str(run), "--trust-local-code"]) == 1
    assert "some tasks have no record: t0, t1" in capsys.readouterr().out


def test_a_certificate_that_cannot_be_written_is_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*args: object) -> None:
        raise sidetune_core.errors.WriteError("cannot write certificate.json: No space left on device")

    monkeypatch.setattr("sidetune_core.training.run_recorder.certify", fail)
    sidetune_core.resume(run, trust_local_code=True)
    assert not (run / "certificate.json").exists()
    assert "No space left on device; the run continues without" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["moved.jsonl", "parameters.jsonl", "seconds.jsonl", "certificate.json"])
@pytest.mark.parametrize("content", [b"5\n", b"\xff\xfe\n", b"{}\n", b"[" * 9999 + b"\n"], ids=range(4))
def test_a_report_names_a_damaged_file_and_leaves_it_out(
    whole: Path, tmp_path: Path, name: str, content: bytes, capsys: Capture
) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    (path / name).write_bytes(content)
    assert main(["report", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert name in line


def test_damaged_records_of_plugins_are_left_out_of_a_report(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    about = json.loads((path / "run.json").read_text(encoding="utf-8"))
    about |= {"plugins": 5, "segments": [1, {"versions": 3}], "spec_changes": {}}
    (path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert main(["report", str(path)]) == 0


def test_a_damaged_line_of_r_is_no_gap(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    lines = (path / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    (path / "eval.jsonl").write_text("\n".join([lines[0], "{", *lines[2:], ""]), encoding="utf-8")
    assert main(["report", str(path)]) == 2
    assert "line 2 of eval.jsonl" in capsys.readouterr().err


LAST_ROW, ALL_ROWS = slice(-TASKS, None), slice(None)


def delete_cells(path: Path, which: slice) -> None:
    lines = (path / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    del lines[which]
    (path / "eval.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("which", [LAST_ROW, ALL_ROWS, slice(3, 5)], ids=["last", "all", "first"])
def test_a_run_without_a_row_of_r_is_damaged_when_it_is_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: slice
) -> None:
    monkeypatch.syspath_prepend(str(TINY))
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    delete_cells(path, which)
    with pytest.raises(RunError, match="is damaged: R has no row"):
        sidetune_core.resume(path, trust_local_code=True)
    with pytest.raises(RunError, match="is damaged: R has no row"):
        summarise(RunFolder(path))


@pytest.mark.parametrize("which", [LAST_ROW, ALL_ROWS], ids=["last", "all"])
def test_nothing_is_claimed_of_an_unfinished_run_without_a_row_of_r(
    whole: Path, tmp_path: Path, which: slice
) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    assert "zero by construction for t0 to t1" in summarise(RunFolder(path)).certificate[0]
    (path / "status").write_text("interrupted\n")
    delete_cells(path, which)
    assert summarise(RunFolder(path)).certificate[0].startswith("Zero forgetting is not claimed, because R")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda about: about.pop("tasks"), "it has no list of tasks"),
        (lambda about: about.update(tasks="t0"), "it has no list of tasks"),
        (lambda about: about.update(tasks=[{"id": 0}]), "it has no id of each task"),
        (lambda about: about.update(metric=[]), "it has no metric of each task"),
        (lambda about: about.update(higher_is_better=None), "it has no direction of the metric"),
        (lambda about: about.update(save_every=[]), r"its save_every is \[\]"),
        (lambda about: about.update(save_every="often"), "its save_every is 'often'"),
    ],
    ids=["no tasks", "tasks", "id", "metric", "direction", "no text", "no interval"],
)
def test_a_damaged_run_json_is_named_when_the_run_is_resumed(
    run: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(about)
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(RunError, match=rf"run\.json is damaged: {problem}"):
        sidetune_core.resume(run, trust_local_code=True)
