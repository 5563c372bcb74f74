from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from sidetune_core.api import (
    ClassPrediction,
    LabelsPrediction,
    MapPrediction,
    Outputs,
    Prediction,
    Preprocessed,
    TaskCard,
    TaskHandler,
    ValuesPrediction,
)
from sidetune_core.cli.prediction_output import Output
from sidetune_core.errors import OptionError
from sidetune_core.serving.files import Predicted

CARD = TaskCard("t0", "title", "env", {"image": (3, 8, 8)}, Outputs(), "accuracy")
MAP = MapPrediction(np.zeros((1, 2, 3), np.float32), "m")
CAT = ClassPrediction("cat", 0.75, {"dog": 0.25, "cat": 0.75})


class Handler(TaskHandler):
    def preprocess(self, values: object) -> Preprocessed:
        raise NotImplementedError

    def postprocess(self, output: torch.Tensor, examples: Preprocessed) -> list[Prediction]:
        raise NotImplementedError


class Documented(Handler):
    def document(self, predictions: object) -> str:
        assert isinstance(predictions, dict)
        return json.dumps({name: str(prediction) for name, prediction in predictions.items()})


def write(
    results: list[Predicted],
    format: Literal["text", "csv", "json"] = "text",
    out: Path | None = None,
    top: int = 1,
    handler: type[TaskHandler] = Handler,
) -> None:
    with Output(format, out, top, list(results[0].predictions), handler(CARD)) as output:
        for result in results:
            output.write(result)


def test_maps_are_written_as_arrays_and_images(tmp_path: Path) -> None:
    write([Predicted("photos/a.png", {"t0": MAP})], out=tmp_path / "maps")
    assert np.array_equal(np.load(tmp_path / "maps" / "a-t0.npy"), MAP.values)
    assert Image.open(tmp_path / "maps" / "a-t0.png").size == (3, 2)


def test_files_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    write([Predicted("a/x.png", {"t0": MAP}), Predicted("b/x.png", {"t0": MAP})], out=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["x-t0-2.npy", "x-t0.npy"]


def test_csv_has_the_probability_of_each_label(capsys: pytest.CaptureFixture[str]) -> None:
    labels = LabelsPrediction(("red",), {"red": 0.75, "round": 0.25})
    write([Predicted("a.png", {"t0": labels})], "csv")
    assert capsys.readouterr().out.splitlines() == ["file,task,red,round", "a.png,t0,0.75,0.25"]


def test_a_class_next_to_a_map_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([Predicted("a.png", {"t0": CAT, "t1": MAP})], out=tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == "a.png  t0  cat 0.75"


def test_columns_are_those_of_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    write([Predicted("a.png", {"t0": CAT, "t1": ValuesPrediction({"x": 1.5})})], "csv")
    assert capsys.readouterr().out.splitlines() == [
        "file,task,label,probability,x",
        "a.png,t0,cat,0.75,",
        "a.png,t1,,,1.5",
    ]


def test_json_has_a_summary_of_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    write([Predicted("a.png", {"t0": MAP})], "json")
    assert json.loads(capsys.readouterr().out)["prediction"] == {
        "shape": "1 x 2 x 3",
        "minimum": 0.0,
        "maximum": 0.0,
        "unit": "m",
    }


def test_the_most_probable_classes_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    write([Predicted("a.png", {"t0": CAT})], top=2)
    assert capsys.readouterr().out == "a.png  cat 0.75, dog 0.25\n"


def test_a_name_with_line_breaks_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    write([Predicted("a\nb.png", {"t0": CAT})])
    assert capsys.readouterr().out.count("\n") == 1


def test_a_document_is_written_at_the_end(tmp_path: Path) -> None:
    write([Predicted("q1", {"t0": CAT})], out=tmp_path / "p.json", handler=Documented)
    assert json.loads((tmp_path / "p.json").read_text()) == {"q1": "cat 0.75"}


def test_lines_of_json_are_no_document(tmp_path: Path) -> None:
    write([Predicted("q1", {"t0": CAT})], "json", tmp_path / "p.json", handler=Documented)
    assert json.loads((tmp_path / "p.json").read_text())["file"] == "q1"


def test_a_document_has_one_task(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="predictions of one task"):
        write([Predicted("q1", {"t0": CAT, "t1": CAT})], out=tmp_path / "p.json", handler=Documented)
