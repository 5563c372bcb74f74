"""The values in a file of questions: JSON, JSON lines, parquet, or a folder of the ``datasets`` library."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidetune_core.api import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".json.gz", ".jsonl.gz", ".ndjson.gz")
"""Of files of questions."""
EXPECTED = (
    "expected questions in SQuAD's format (.json) or rows of the Hugging Face layout (.json, .jsonl, "
    ".parquet, or a folder written by save_to_disk); JSON may be compressed (.gz)"
)

MAX_BYTES = 2**30
"""Of a file that is not compressed."""
MAX_UNCHECKED_BYTES = 2**28
"""Files up to this size are unpacked whatever their compression ratio."""
MAX_COMPRESSION_RATIO = 100
"""A larger file with a higher ratio is treated as a decompression bomb."""


def load_entries(path: Path) -> list[Any]:
    """The articles or rows of a file, as plain values.

    Raises:
        DataError: the file is missing, damaged, or of another format.
    """
    if path.is_dir():
        return _dataset(path)
    if not path.is_file():
        raise DataError(f"no file {path}; {EXPECTED}")
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    raw = _bytes(path)
    try:
        if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            return list(_lines(raw, path))
        try:
            values = json.loads(raw)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            return list(_lines(raw, path))  # JSON lines under another suffix
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}); convert it, e.g. from Latin-1: "
            f"iconv -f LATIN1 -t UTF-8 '{path}' > utf8.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if isinstance(values, dict):
        if "data" not in values:
            raise DataError(f"{path}: missing key 'data'; {EXPECTED}")
        values = values["data"]
        if not isinstance(values, list):
            raise DataError(f"{path}: 'data' must be a list, not {kind(values)}")
    if not isinstance(values, list):
        raise DataError(
            f"{path}: expected an object with a list 'data' of articles, or a list of rows; "
            f"it is {kind(values)}"
        )
    return values


def kind(value: object) -> str:
    """The type of a JSON value, for messages."""
    names = {str: "text", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _bytes(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES / 2**30:.3g} GiB")
            return path.read_bytes()
        limit = max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION_RATIO * path.stat().st_size)
        with gzip.open(path) as file:
            raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if len(raw) > limit:
        raise DataError(
            f"{path} unpacks to more than {limit / 2**30:.3g} GiB; decompress it yourself if you trust it"
        )
    return raw


def _lines(raw: bytes, path: Path) -> Iterator[Any]:
    """The value of each line that is not empty."""
    for number, line in enumerate(raw.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = f"{path} cannot be read as JSON lines: line {number}: {_first_line(error)}"
                raise DataError(reason) from error


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: reading .parquet needs pyarrow: pip install 'sidetune[tables]'") from error
    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {_first_line(error)}") from error
    return rows


def _dataset(path: Path) -> list[Any]:
    """The rows of a folder that ``Dataset.save_to_disk`` has written."""
    splits = sorted(file.parent.name for file in path.glob("*/state.json"))
    if splits:
        listed = " or ".join(str(path / split) for split in splits[:5])
        raise DataError(f"{path} has the splits {', '.join(splits[:5])}; pass one of them: {listed}")
    if not (path / "state.json").is_file():
        raise DataError(f"{path} is a folder without a data set; {EXPECTED}")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path}: reading it needs the datasets library: pip install 'sidetune[datasets]'"
        ) from error
    try:
        rows: list[Any] = datasets.load_from_disk(str(path)).to_list()
    except Exception as error:  # the library raises whatever its readers do
        raise DataError(f"{path} cannot be read as a data set: {_first_line(error)}") from error
    return rows


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
