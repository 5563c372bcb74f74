"""`sidetune evaluate`, as a person types it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import sidetune_core
from sidetune_core.cli.main import main
from sidetune_core.results.summary import read_results
from sidetune_core.storage.checkpoint import boundary
from sidetune_core.storage.run_folder import RunFolder

Capsys = pytest.CaptureFixture[str]


def output_of(capsys: Capsys, *argv: object) -> str:
    assert main(["evaluate", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_the_values_are_those_of_the_run(digits_run: Path, capsys: Capsys) -> None:
    (*_, last), text = read_results(RunFolder(digits_run)).rows, output_of(capsys, digits_run)
    assert f"{100 * (last[1] or 0):.2f} %" in text
    assert text.endswith(
        "split test; the values are those that the run has recorded; the data are those of the run (by their "
        "fingerprints)\n"
    )


def test_csv_has_full_precision(digits_run: Path, capsys: Capsys) -> None:
    rows = list(csv.DictReader(output_of(capsys, digits_run, "--format", "csv", "--task", "t0").splitlines()))
    last = read_results(RunFolder(digits_run)).rows[-1]
    assert [(row["metric"], row["value"]) for row in rows][0] == ("accuracy", str(last[0]))


def test_json_has_the_classes(digits_run: Path, capsys: Capsys) -> None:
    (values,) = json.loads(output_of(capsys, digits_run, "--format", "json", "--task", "t0", "--per-class"))
    assert [each["name"] for each in values["classes"]] == ["0", "1"]


def test_classes_are_printed(digits_run: Path, capsys: Capsys) -> None:
    lines = output_of(capsys, digits_run, "--per-class").splitlines()
    header = ["class", "recall", "precision", "f1", "correct", "predicted", "examples"]
    assert [line.split() for line in lines].count(header) == 2  # tasks


def test_another_split_of_other_data(digits_run: Path, capsys: Capsys) -> None:
    text = output_of(capsys, digits_run, "--env.val-fraction", "0.2", "--split", "val")
    assert "the run has recorded no values for it; the data are not those of the run" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("RUN", "--side", "fcn3"), "uses the trained components of the run, not --side"),
        (("RUN", "--seed", "1"), "not --seed"),
        (("--env.num-tasks", "1", "RUN"), "name the run first"),
        (("RUN", "--env.nope", "1"), "has no option"),
        (("RUN", "--env.partition", "random"), "in another order"),
        (("RUN", "--split", "val"), "no split 'val'"),
        (("nowhere",), "nowhere"),
    ],
)
def test_what_is_wrong_is_said(
    digits_run: Path, words: tuple[str, ...], message: str, capsys: Capsys
) -> None:
    assert main(["evaluate", *(str(digits_run) if word == "RUN" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_options_of_the_env_are_those_of_the_task(digits_run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    sidetune_core.extend(run, {"name": "digits", "num_tasks": 3}, tasks=["t2"], train={"steps": 1})
    text = output_of(capsys, run, "--task", "t2", "--env.val-fraction", "0.2", "--split", "val")
    assert text.splitlines()[1].startswith("t2 ")


def with_recorded(run: Path, copy: Path, metric: str, factor: float) -> Path:
    """A copy of a run whose recorded values of a metric are others."""
    shutil.copytree(run, copy)
    lines = [json.loads(line) for line in (copy / "eval.jsonl").read_text().splitlines()]
    for line in lines:
        if "figures" in line:
            line["figures"][metric] *= factor
    (copy / "eval.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return copy


def test_a_difference_of_other_metrics_is_named(digits_run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run = with_recorded(digits_run, tmp_path / "run", "loss", 1.0001)
    text = output_of(capsys, run)
    assert "the run has recorded the same accuracy; loss differs by up to" in text
    assert "(rounding: the cache, the batches or the device may differ)" in text


def test_a_large_difference_is_not_called_rounding(digits_run: Path, tmp_path: Path, capsys: Capsys) -> None:
    text = output_of(capsys, with_recorded(digits_run, tmp_path / "run", "loss", 2))
    assert "loss differs by up to" in text
    assert "rounding" not in text


def test_a_damaged_checkpoint_is_named_in_one_line(
    digits_run: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidetune_core.serving.source.PAUSE", 0.0)
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    newest = boundary(run / "checkpoints", 2)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert main(["evaluate", str(run)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: ")
    assert captured.err.count("\n") == 1
    assert [line.split()[0] for line in captured.out.splitlines()[:2]] == ["task", "t0"]
