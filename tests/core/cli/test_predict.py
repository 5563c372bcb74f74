"""`sidetune predict`, as a person types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sidetune_core
from sidetune_core.cli.main import main

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def error_of(capsys: Capsys, *argv: object) -> str:
    """Run a command that is to fail with status 2, and give what it says."""
    assert main(["predict", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


def output_of(capsys: Capsys, *argv: object, status: int = 0) -> str:
    assert main(["predict", *map(str, argv)]) == status
    return capsys.readouterr().out


def test_a_line_has_the_file_and_the_class_with_its_probability(
    digits_run: Path, photo: Path, capsys: Capsys
) -> None:
    expected = sidetune_core.load(digits_run).predict(photo, "t1")
    assert output_of(capsys, digits_run, "--task", "t1", photo) == f"{photo}  {expected}\n"


def test_options_come_in_any_order(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    first = output_of(capsys, digits_run, "--task", "t1", photo)
    assert output_of(capsys, "--task", "t1", digits_run, photo) == first


def test_all_tasks_predict(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    lines = output_of(capsys, digits_run, photo, "--tasks", "all").splitlines()
    assert [line.split("  ")[1] for line in lines] == ["t0", "t1"]


def test_csv_has_a_column_for_each_class_that_is_asked_for(
    digits_run: Path, photo: Path, capsys: Capsys
) -> None:
    text = output_of(capsys, digits_run, photo, "--tasks", "t1,t0", "--format", "csv", "--top", "2")
    header, first, second = csv.reader(text.splitlines())
    assert header == ["file", "task", "label", "probability", "label_2", "probability_2"]
    assert [first[1], second[1]] == ["t1", "t0"]
    assert float(first[3]) + float(first[5]) == pytest.approx(1)


def test_json_has_the_probabilities_of_all_classes(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    values = json.loads(output_of(capsys, digits_run, photo, "--task", "t0", "--format", "json"))
    assert [*values["prediction"]["probabilities"]] == ["0", "1"]


def test_a_name_that_a_spreadsheet_would_compute_is_escaped(
    digits_run: Path, photo: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    photo.rename(photo.parent / "=1+1.png")
    text = output_of(capsys, digits_run, "=1+1.png", "--task", "t0", "--format", "csv")
    assert text.splitlines()[1].startswith("'=1+1.png,")


def test_a_file_that_cannot_be_read_is_named_and_the_status_is_1(
    digits_run: Path, photo: Path, capsys: Capsys
) -> None:
    bad = photo.with_name("bad.png")
    bad.write_text("no image")
    assert main(["predict", str(digits_run), str(bad), str(photo), "--task", "t0"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{photo}  ")
    assert captured.err.startswith(f"failed: {bad} cannot be read as an image")
    assert captured.err.endswith("1 file failed\n")


def test_it_stops_at_such_a_file_on_request(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    assert "gone.png: no such file" in error_of(
        capsys, digits_run, "gone.png", photo, "--task", "t0", "--on-error", "stop"
    )


def test_lines_go_to_a_file(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    out = photo.with_name("out.csv")
    assert output_of(capsys, digits_run, photo, "--task", "t0", "--format", "csv", "--out", out) == ""
    assert len(out.read_text().splitlines()) == 2


def test_a_file_that_is_predicted_is_not_overwritten(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    before = photo.read_bytes()
    assert "is one of the files" in error_of(capsys, digits_run, photo, "--task", "t0", "--out", photo)
    assert photo.read_bytes() == before


def test_several_tasks_are_listed_with_their_titles(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    assert error_of(capsys, digits_run, photo) == (
        "error: there are 2 tasks; choose with --task ID or --tasks all:\n  t0  0, 1\n  t1  2, 3\n"
    )


def test_an_unknown_task_is_named(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    assert "there is no task 't9'; there are:\n  t0  0, 1" in error_of(
        capsys, digits_run, photo, "--task", "t9"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no run given"),
        (("RUN",), "no files given: sidetune predict RUN FILES"),
        (("nowhere", "x.png"), "nowhere"),
        (("RUN", "x.png", "--nope"), "has no option '--nope'"),
        (("RUN", "x.png", "--top", "0"), "--top must be at least 1"),
        (("RUN", "x.png", "--batch-size", "0"), "--batch-size must be at least 1"),
        (("RUN", "x.png", "--task", "t0", "--tasks", "all"), "either --task or --tasks"),
    ],
)
def test_what_is_wrong_is_said(
    digits_run: Path, words: tuple[str, ...], message: str, capsys: Capsys
) -> None:
    found = error_of(capsys, *(digits_run if word == "RUN" else word for word in words))
    assert message.replace("RUN", str(digits_run)) in found


def test_predictions_are_not_written_into_a_run(digits_run: Path, photo: Path, capsys: Capsys) -> None:
    text = error_of(capsys, digits_run, "--task", "t0", photo, "--out", digits_run / "run.json")
    assert "which is only read; choose a path outside of it" in text


def test_predictions_are_not_written_into_a_run_through_a_link(
    digits_run: Path, photo: Path, tmp_path: Path, capsys: Capsys
) -> None:
    (tmp_path / "link").symlink_to(digits_run)
    out = tmp_path / "link" / "new" / "out.csv"
    assert "is only read" in error_of(capsys, digits_run, "--task", "t0", photo, "--out", out)
    assert not out.parent.exists()


def test_runs_with_a_task_of_the_same_id_are_used_one_at_a_time(
    digits_run: Path, photo: Path, capsys: Capsys
) -> None:
    text = error_of(capsys, digits_run, digits_run, "--task", "t0", photo)
    assert f"one of them at a time: sidetune predict {digits_run} --task t0 FILES" in text
    assert "model.add" not in text
