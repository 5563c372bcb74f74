"""Where `sidetune predict` puts predictions: lines of text, files of maps, or one document."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from sidetune_core.errors import OptionError
from sidetune_core.interfaces.handlers import Prediction, TaskHandler
from sidetune_core.interfaces.predictions import (
    ClassPrediction,
    LabelsPrediction,
    MapPrediction,
    ValuesPrediction,
)
from sidetune_core.io import strict_json
from sidetune_core.io.printable import one_line
from sidetune_core.results.tables import comma_separated
from sidetune_core.serving.files import Predicted
from sidetune_core.serving.map_images import draw_map
from sidetune_core.storage.atomic import make_folder, write_bytes, write_text, writing

Format = Literal["text", "csv", "json"]


class Output:
    """Writes predictions as they come.

    A line for each example and task goes to standard output, or to the file `out`. If there are maps, `out`
    is a folder for them, and the lines are printed. If `out` is a .json file and the handler has a document
    of its own, such as that of SQuAD, the predictions are written as one at the end.

    Args:
        format: of the lines; ``json`` has one object per line.
        out: a file or folder; None for standard output.
        top: number of classes to print.
        tasks: that predict.
        handler: of the first of them.

    Raises:
        OptionError: a document is to have the predictions of several tasks.
    """

    def __init__(
        self, format: Format, out: Path | None, top: int, tasks: Sequence[str], handler: TaskHandler
    ) -> None:
        self._format, self._out, self._top, self._tasks, self._handler = format, out, top, tasks, handler
        self._columns: list[str] = []
        self._map_names: Counter[str] = Counter()
        self._stack = ExitStack()
        self._stream: TextIO | None = None
        self._documented: dict[str, Prediction] = {}
        has_document = type(handler).document is not TaskHandler.document
        self._is_document = out is not None and out.suffix == ".json" and format == "text" and has_document
        if self._is_document and len(tasks) > 1:
            raise OptionError(f"--out {out} takes the predictions of one task; choose it with --task")

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        if kind is None and self._is_document and self._documented and self._out is not None:
            with writing(self._out):
                write_text(self._out, self._handler.document(self._documented))

    def write(self, result: Predicted) -> None:
        """Write the predictions for an example.

        Raises:
            WriteError: the file or folder is not writable.
        """
        if self._is_document:
            self._documented[result.name] = result.predictions[self._tasks[0]]
            return
        has_maps = any(isinstance(each, MapPrediction) for each in result.predictions.values())
        paths = dict(self._write_maps(result)) if self._out is not None and has_maps else {}
        for line in self._lines(result, paths):
            if self._out is None or has_maps:
                print(line)
            else:
                self._write_line(self._out, line)

    def _write_line(self, path: Path, line: str) -> None:
        with writing(path):
            if self._stream is None:
                make_folder(path.parent)
                self._stream = self._stack.enter_context(path.open("w", encoding="utf-8"))
            self._stream.write(f"{line}\n")

    def _lines(self, result: Predicted, paths: Mapping[str, Path]) -> Iterator[str]:
        rows = {task: self._values(prediction) for task, prediction in result.predictions.items()}
        for task, path in paths.items():
            rows[task]["path"] = str(path)
        if self._format == "csv" and not self._columns:
            self._columns = list(dict.fromkeys(name for values in rows.values() for name in values))
            yield comma_separated([["file", "task", *self._columns]])
        for task, values in rows.items():
            if self._format == "json":
                yield strict_json.dumps({"file": result.name, "task": task, "prediction": values})
            elif self._format == "csv":
                yield comma_separated([[result.name, task, *(values.get(name) for name in self._columns)]])
            else:
                shown = self._text(result.predictions[task])
                written = f" → {paths[task]}" if task in paths else ""
                words = [result.name, *([task] if len(self._tasks) > 1 else []), f"{shown}{written}"]
                yield "  ".join(map(one_line, words))

    def _text(self, prediction: Prediction) -> str:
        if isinstance(prediction, ClassPrediction) and self._top > 1:
            return ", ".join(f"{label} {probability:.2f}" for label, probability in prediction.top(self._top))
        return str(prediction)

    def _values(self, prediction: Prediction) -> dict[str, Any]:
        """A prediction in plain values; those of csv by column."""
        is_csv = self._format == "csv"
        if isinstance(prediction, MapPrediction):
            return _summary(prediction)
        if isinstance(prediction, ClassPrediction):
            best = prediction.top(self._top)
            if is_csv:
                return dict(_ranked(best))
            values = prediction.to_json()
            return values if self._top == 1 else {**values, "probabilities": dict(best)}
        if isinstance(prediction, LabelsPrediction) and is_csv:
            return dict(prediction.probabilities)
        if isinstance(prediction, ValuesPrediction) and is_csv:
            return dict(prediction.values)
        values = prediction.to_json()
        nested = (dict, list)
        return {k: v for k, v in values.items() if not isinstance(v, nested)} if is_csv else values

    def _write_maps(self, result: Predicted) -> Iterator[tuple[str, Path]]:
        """Write each map as an array and as an image; yields the paths of the arrays by task."""
        assert self._out is not None
        for task, prediction in result.predictions.items():
            if isinstance(prediction, MapPrediction):
                stem = f"{Path(result.name).stem}-{task}"
                self._map_names[stem] += 1
                number = self._map_names[stem]
                path = self._out / f"{stem}{f'-{number}' if number > 1 else ''}.npy"
                _save_map(path, prediction)
                yield task, path


def _ranked(best: Sequence[tuple[str, float]]) -> Iterator[tuple[str, object]]:
    for rank, (label, probability) in enumerate(best, 1):
        suffix = f"_{rank}" if rank > 1 else ""
        yield from ((f"label{suffix}", label), (f"probability{suffix}", probability))


def _summary(prediction: MapPrediction) -> dict[str, Any]:
    return {
        "shape": " x ".join(map(str, prediction.values.shape)),
        "minimum": float(prediction.values.min()),
        "maximum": float(prediction.values.max()),
        "unit": prediction.unit,
    }


def _save_map(path: Path, prediction: MapPrediction) -> None:
    from PIL import Image

    array, image = io.BytesIO(), io.BytesIO()
    np.save(array, prediction.values)
    Image.fromarray(draw_map(prediction)).save(image, "png")
    for suffix, content in ((".npy", array), (".png", image)):
        with writing(path.with_suffix(suffix)):
            write_bytes(path.with_suffix(suffix), content.getvalue())
