"""Opening data sets of the ``datasets`` library: names on the Hugging Face Hub, folders and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import datasets

from sidetune_core.api import DataError, OptionError, shorten

from ..._download import hub_access
from ..images.layout import SPLIT_NAMES, distinct

BUILDERS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
}
"""Names of the library's readers, by the suffix of a file."""

EXPECTED = (
    "expected a name on the Hugging Face Hub, a folder written by save_to_disk, a folder of images, or a "
    "folder or file of .parquet, .csv or .jsonl"
)


@attrs.frozen(eq=False)
class OpenedSet:
    """A data set."""

    name: str
    """For tasks and messages."""
    splits: Mapping[str, Any]
    """The library's ``Dataset`` by our name of the split: ``train``, ``val``, ``test``."""
    left_out: Sequence[str] = ()
    """Other splits."""


def open_sets(names: Sequence[str], subset: str | None) -> list[OpenedSet]:
    """Open data sets.

    Args:
        names: on the Hub, or of folders or files.
        subset: of each of them, as the library's ``load_dataset(name, subset)``.

    Raises:
        DataError: one cannot be opened, or has no training split.
    """
    titles = distinct([Path(name).stem for name in names], lambda k: names[k])
    return [_open(name, title, subset) for name, title in zip(names, titles, strict=True)]


def _open(name: str, title: str, subset: str | None) -> OpenedSet:
    loaded = _load(name, subset)
    given = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    splits: dict[str, Any] = {}
    left_out = []
    for key, value in given.items():
        split = SPLIT_NAMES.get(str(key).lower())
        if split is None or split in splits:
            left_out.append(str(key))
        else:
            splits[split] = value
    if "train" not in splits:
        raise DataError(
            f"{name} (--env.dataset) has no split 'train'; its splits: {shorten(map(str, given)) or 'none'}"
        )
    return OpenedSet(title, splits, left_out)


def _load(name: str, subset: str | None) -> Any:
    path = Path(name).expanduser()
    is_local = path.exists()
    if not is_local and (path.is_absolute() or name.startswith(("~", "."))):
        raise DataError(f"no folder or file {path} (--env.dataset); {EXPECTED}")
    try:
        with _no_bars() if is_local else hub_access():
            if not is_local:
                return datasets.load_dataset(name, subset)
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                return datasets.load_from_disk(str(path))
            if path.is_dir():
                return datasets.load_dataset(str(path), subset)
            return _load_file(path)
    except DataError:
        raise
    except Exception as error:  # the library raises errors of all that it reads with
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "" if is_local else f" Without internet access, pass a folder: {EXPECTED}"
        raise DataError(f"{name} (--env.dataset) cannot be opened: {reason.rstrip('.')}.{hint}") from error


def _load_file(path: Path) -> Any:
    builder = BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise DataError(f"{path} (--env.dataset) is no {', '.join(BUILDERS)} file; {EXPECTED}")
    options = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    return datasets.load_dataset(builder, data_files={"train": str(path)}, **options)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without progress bars, which are of use for downloads."""
    were_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


def check_named(names: Sequence[str], env: str, example: str) -> None:
    """
    Raises:
        OptionError: no data set is named, or one is named twice.
    """
    if not names:
        raise OptionError(f"env '{env}' needs a data set: pass --env.dataset {example}; {EXPECTED}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"--env.dataset has {shorten(twice)} more than once; name each data set once")


def left_out(opened: OpenedSet, notes: Sequence[str]) -> str:
    """What of a data set is not used, in words; empty if all of it is."""
    splits = [f"split '{name}'" for name in opened.left_out]
    return f"{opened.name}: left out: {', '.join([*splits, *notes])}" if splits or notes else ""
