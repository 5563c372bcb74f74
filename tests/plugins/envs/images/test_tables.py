"""Images and labels in tables."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core import api
from sidetune_core.config import kinds, registry

Images = registry.load(registry.find(kinds.ENV, "images"))
WriteImages = Callable[..., Path]
Rows = Sequence[Sequence[object]]


@pytest.fixture
def root(write_images: WriteImages) -> Path:
    """Twelve images."""
    return write_images({"images": 12})


def write(root: Path, header: Sequence[str], rows: Rows, name: str = "table.csv", **options: Any) -> Path:
    with (root / name).open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        csv.writer(file, **options).writerows([header, *rows])
    return root / name


def labelled(labels: Sequence[object]) -> list[tuple[object, ...]]:
    """A row for each label."""
    return [(f"images/{k}.png", label) for k, label in enumerate(labels)]


class Read:
    """The tasks of a table, and what was printed."""

    def __init__(self, table: Path, **options: Any) -> None:
        self.lines: list[str] = []
        stream = Images(Images.Config(table=table, **options), 0)
        stream.info = self.lines.append
        self.tasks = stream.tasks()
        self.parts = stream.data_parts()

    def names(self) -> list[tuple[str, ...]]:
        return [task.outputs.names for task in self.tasks]


def fails(match: str, table: Path, **options: Any) -> None:
    with pytest.raises(api.SidetuneError, match=match) as caught:
        Read(table, **options)
    assert "\n" not in str(caught.value)


def test_names_are_classes_in_their_order(root: Path) -> None:
    read = Read(write(root, ("path", "label"), labelled(["dog", "cat", "dog"] * 4)))
    (task,) = read.tasks
    assert (task.outputs.names, task.size("train"), task.size("test")) == (("cat", "dog"), 9, 3)
    assert "layout columns path, label of table.csv;" in read.lines[0]


def test_integers_are_classes_in_numeric_order(root: Path) -> None:
    read = Read(write(root, ("path", "label"), labelled([10, 9, -1] * 4)))
    assert read.names() == [("-1", "9", "10")]


def test_splits_and_tasks_are_columns(root: Path) -> None:
    rows = [(f"images/{k}.png", k % 2, "TRAIN" if k < 8 else "test", "ba"[k % 4 > 1]) for k in range(12)]
    read = Read(write(root, ("path", "label", "split", "task"), rows))
    assert [(task.id, task.size("train"), task.size("test")) for task in read.tasks] == [
        ("b", 4, 2),
        ("a", 4, 2),
    ]
    assert read.parts["b/train/0"].count == 2


def test_quotes_semicolons_and_a_byte_order_mark_are_understood(root: Path) -> None:
    rows = labelled(['cat; "tabby"', "dog, small"] * 6)
    table = write(root, ("path", "label"), rows, delimiter=";", encoding="utf-8-sig")
    read = Read(table)
    assert read.names() == [('cat; "tabby"', "dog, small")]
    assert "table.csv, divided by semicolons" in read.lines[0]


def test_tabs_divide_the_columns_of_a_tsv(root: Path) -> None:
    rows = labelled(["a,b", "c"] * 6)
    assert Read(write(root, ("path", "label"), rows, "t.tsv", delimiter="\t")).names() == [("a,b", "c")]


def test_columns_may_have_other_names(root: Path) -> None:
    table = write(root, ("file", "kind", "label"), [(*row, 1) for row in labelled(["a", "b"] * 6)])
    assert Read(table, path_column="file", label_column=("kind",)).names() == [("a", "b")]


def test_paths_are_relative_to_the_root_if_there_is_one(root: Path, tmp_path: Path) -> None:
    table = write(tmp_path, ("path", "label"), [(f"{k}.png", k % 2) for k in range(12)])
    assert Read(table, root=(root / "images",)).tasks[0].size("train") == 10


def test_a_parquet_file_is_the_same_as_a_csv(root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = labelled([3, 10, None] * 4)
    columns = {"path": [row[0] for row in rows], "label": [row[1] for row in rows]}
    parquet.write_table(pyarrow.table(columns), root / "t.parquet")
    fails(r"4 of 12 rows have no label: line 3 \(images/2.png\)", root / "t.parquet")
    read = Read(root / "t.parquet", on_error="skip")
    again = Read(write(root, ("path", "label"), rows), on_error="skip")
    assert read.names() == again.names() == [("3", "10")]
    assert read.parts == again.parts


def test_parquet_without_its_library_names_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (root / "t.parquet").write_bytes(b"PAR1")
    fails(r"pip install 'sidetune\[tables\]'", root / "t.parquet")


# Labels and values


def test_several_labels_of_an_image(root: Path) -> None:
    table = write(root, ("path", "label"), labelled(["cat;dog", "dog", "", "cat; bird"] * 3))
    (task,) = Read(table, targets="labels").tasks
    assert (task.outputs.kind, task.outputs.names) == ("binary", ("bird", "cat", "dog"))
    both = torch.cat([task.sources[split].targets() for split in ("train", "test")])
    assert both.sum(0).tolist() == [3, 6, 6]


def test_a_class_that_looks_like_several_labels_is_said_with_the_option_for_these(root: Path) -> None:
    read = Read(write(root, ("path", "label"), labelled(["cat;dog", "dog"] * 6)))
    assert "'cat;dog' is one class; for several labels an image, pass --env.targets labels" in read.lines[0]
    assert "--env.targets" not in Read(write(root, ("path", "label"), labelled(["cat", "dog"] * 6))).lines[0]


def test_labels_may_be_columns_of_0_and_1(root: Path) -> None:
    rows = [(f"images/{k}.png", k % 2, int(k > 5)) for k in range(12)]
    table = write(root, ("path", "wet", "old"), rows)
    (task,) = Read(table, targets="labels", label_column=("wet", "old")).tasks
    assert task.outputs.names == ("wet", "old")
    table = write(root, ("path", "wet", "old"), [*rows[:11], ("images/11.png", 2, 0)])
    fails(
        "1 of 12 rows have labels other than 0 and 1: line 13",
        table,
        targets="labels",
        label_column=("wet", "old"),
    )


def test_a_label_in_test_only_is_an_error(root: Path) -> None:
    rows = [(f"images/{k}.png", "a;b" if k > 9 else "a", "test" if k > 7 else "train") for k in range(12)]
    table = write(root, ("path", "label", "split"), rows)
    fails("1 of 2 labels have no training image: b", table, targets="labels")
    assert Read(table, targets="labels", on_error="skip").names() == [("a",)]


def test_values_are_regressed(root: Path) -> None:
    rows = [(f"images/{k}.png", k / 2, -k, "test" if k == 11 else "train") for k in range(12)]
    table = write(root, ("path", "x", "y", "split"), rows)
    (task,) = Read(table, targets="values", label_column=("x", "y")).tasks
    assert (task.outputs.kind, task.outputs.names, task.metric) == ("regression", ("x", "y"), "rmse")
    assert task.sources["test"].targets().tolist() == [[5.5, -11.0]]


@pytest.mark.parametrize("value", ["", "much", "nan", "inf"])
def test_values_that_are_no_numbers_are_an_error(value: str, root: Path) -> None:
    table = write(root, ("path", "label"), labelled([1.5] * 11 + [value]))
    fails(r"1 of 12 rows have a value that is no finite number: line 13", table, targets="values")


# What cannot be used


def test_all_rows_that_cannot_be_used_are_counted(root: Path) -> None:
    rows = [
        *labelled(["a", "b"] * 4),
        ("images/8.png", ""),
        ("images/gone.png", "a"),
        ("images/lost.png", "a"),
        ("./images/0.png", "b"),
        ("", "a"),
    ]
    table = write(root, ("path", "label"), rows)
    fails(
        r"1 of 13 rows have no label: line 10 \(images/8.png\); 2 of 13 rows name a file that does not "
        r"exist: .*; 1 of 13 rows name a file again: line 13 .*; 1 of 13 rows have no path: line 14; leave "
        r"them out with --env.on-error skip",
        table,
    )
    read = Read(table, on_error="skip")
    assert read.lines[0].startswith("8 images of 2 classes")
    assert "left out: 1 row that has no label, 2 rows that name a file that does not exist" in read.lines[0]


def test_splits_of_other_names_are_an_error(root: Path) -> None:
    rows = [(*row, "dev") for row in labelled(["a", "b"] * 6)]
    fails(
        "12 of 12 rows have a split that is none of train, val, test",
        write(root, ("path", "label", "split"), rows),
    )


def test_missing_columns_are_an_error_that_names_those_there(root: Path) -> None:
    table = write(root, ("file", "kind"), labelled(["a"]))
    fails("has no columns 'path', 'label'; it has file, kind. Name them with --env.path-column and", table)


def test_rows_of_another_length_are_an_error(root: Path) -> None:
    table = write(root, ("path", "label"), [*labelled(["a", "b"]), ("images/2.png", "a", "b")])
    fails(
        "1 of 3 rows have not the 2 columns of the first line: line 4; quote cells that contain commas", table
    )


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.csv", b"", "has no columns 'path', 'label'; it has no columns"),
        ("t.csv", b"path,label\n", "has no rows that can be used"),
        ("t.csv", b"path,label\ncaf\xe9,a\n", "is not in UTF-8"),
        ("t.csv", b"path,label,label\nx,a,b\n", "has several columns 'label'"),
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.xlsx", b"PK", "is no table: expected .csv, .tsv"),
    ],
)
def test_a_file_that_is_no_table_is_an_error(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    fails(match, tmp_path / name)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    fails(r"no file .*t.csv \(--env.table\)", tmp_path / "t.csv")


def test_classes_are_divided_and_labels_are_not(root: Path) -> None:
    table = write(root, ("path", "label"), labelled(["a", "b", "c"] * 4))
    assert Read(table, classes_per_task=2).names() == [("a", "b"), ("c",)]
    fails(
        "divides classes; leave it out with --env.targets labels", table, targets="labels", classes_per_task=2
    )


def test_paths_that_all_are_missing_name_the_folder_they_are_relative_to(root: Path) -> None:
    table = write(root, ("path", "label"), labelled([0, 1] * 2))
    fails(
        rf"4 of 4 rows name a file.*relative to {root / 'images'} \(--env.root\)$",
        table,
        root=[root / "images"],
    )


def test_a_table_given_as_the_root_is_answered_with_its_option(root: Path) -> None:
    table = write(root, ("path", "label"), labelled([0, 1] * 2))
    with pytest.raises(api.DataError, match=rf"it is a file; pass --env.table {table}$"):
        Images(Images.Config(root=[str(table)]), 0).tasks()
