"""Whatever an archive or a folder of images holds, the envs answer, and write nothing."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune_core.config import kinds, registry
from sidetune_core.errors import DataError

IMAGES = registry.load(registry.find(kinds.ENV, "images"))
LABELS = np.tile(np.arange(2), 4)
ARRAYS: dict[str, Any] = {
    "x_train": np.zeros((8, 8, 8, 3), np.uint8),
    "y_train": LABELS,
    "x_test": np.zeros((8, 8, 8), np.uint8),
    "y_test": LABELS,
    "names": np.array(["a", "b"]),
}


def tasks(**options: Any) -> Any:
    """The tasks that the env 'images' makes of a file or a folder."""
    return IMAGES(IMAGES.Config(image_size=8, **options), 0).tasks()


def packed(arrays: dict[str, Any], compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def member(header: str, data: bytes = b"\0" * 64, version: bytes = b"\x01\x00") -> bytes:
    """An array file with this header."""
    text = header.encode("latin1", "replace")
    length = struct.pack("<H", len(text) % 2**16) if version == b"\x01\x00" else struct.pack("<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def with_member(name: str, content: bytes) -> bytes:
    """An archive in which one array is another file."""
    file = io.BytesIO(packed({key: value for key, value in ARRAYS.items() if key != name}))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{name}.npy", content)
    return file.getvalue()


@given(data=st.data())
def test_a_spoilt_archive(data: st.DataObject, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data.draw(spoil_bytes(packed(ARRAYS, data.draw(st.booleans())))))
    answer(lambda: tasks(archive=path))
    assert list(tmp_path.iterdir()) == [path]


@given(data=st.data())
def test_a_spoilt_array_in_a_whole_archive(
    data: st.DataObject, tmp_path: Path, spoil_bytes: Any, answer: Any
) -> None:
    path, name = tmp_path / "x.npz", data.draw(st.sampled_from(list(ARRAYS)))
    file = io.BytesIO()
    np.save(file, ARRAYS[name])
    path.write_bytes(with_member(name, data.draw(spoil_bytes(file.getvalue()))))
    answer(lambda: tasks(archive=path))


@given(data=st.data())
def test_an_array_whose_header_lies(data: st.DataObject, tmp_path: Path, answer: Any) -> None:
    types = [
        "'|u1'",
        "'<i8'",
        "'>i8'",
        "'<U1'",
        "'|O'",
        "'<M8[s]'",
        "'|V9'",
        "[('a', '<i4')]",
        "('<i4', (2,))",
        "'<U999999999'",
    ]
    descr = st.sampled_from(types)
    number = st.integers(-2, 9) | st.sampled_from([10**6, 10**12, 2**63, 10**30])
    shape = st.lists(number, max_size=4).map(lambda numbers: repr(tuple(numbers)))
    order = st.sampled_from(["False", "True", "None", "1"])
    strange = st.sampled_from(["", "{", "(" * 3000, "{'descr': ", "__import__('os')", "{1: 2}", "[]"])
    lies = st.builds("{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format, descr, order, shape)
    version = data.draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00"]))
    content = member(data.draw(lies | strange), data.draw(st.binary(max_size=64)), version)
    path = tmp_path / "x.npz"
    path.write_bytes(with_member(data.draw(st.sampled_from(list(ARRAYS))), content))
    answer(lambda: tasks(archive=path))


@given(data=st.data())
def test_arrays_of_other_types_and_shapes(data: st.DataObject, tmp_path: Path, answer: Any) -> None:
    others = st.sampled_from(
        [
            np.float32(3),
            np.zeros((0, 8, 8, 3), np.uint8),
            np.zeros((8, 8, 8, 1), np.uint8),
            np.asfortranarray(np.zeros((8, 9, 7, 3), np.uint8)),
            LABELS.astype(">i4"),
            LABELS.astype(np.uint64) + np.uint64(2**63),
            LABELS - 5,
            LABELS * 2**61,
            LABELS.astype(float) * np.nan,
            LABELS.astype(bool),
            LABELS.astype("M8[s]"),
            np.array(["a"] * 8),
            np.array(["a", ""]),
            np.array([b"a", b"b"]),
            np.array(["a\0\ud800", "\n"]),
            np.frombuffer(struct.pack("<II", 0x7FFFFFFF, 65), "<U1"),
        ]
    )
    changes = data.draw(st.dictionaries(st.sampled_from(list(ARRAYS)), others, min_size=1, max_size=2))
    path = tmp_path / "x.npz"
    path.write_bytes(packed(ARRAYS | changes))
    answer(lambda: tasks(archive=path))


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        (
            "x_train",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }",
            "x_train cannot be read",
        ),
        (
            "x_train",
            f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30},), }}",
            "x_train cannot be read",
        ),
        (
            "y_train",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999,), }",
            "y_train cannot be read",
        ),
        (
            "names",
            "{'descr': '<U999999999', 'fortran_order': False, 'shape': (2,), }",
            "names cannot be read",
        ),
        ("names", "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "holds pickled Python objects"),
    ],
)
def test_a_header_that_tells_an_absurd_length(name: str, header: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(with_member(name, member(header)))
    with pytest.raises(DataError, match=words):
        tasks(archive=path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(packed(ARRAYS | {"names": np.frombuffer(struct.pack("<II", 0x7FFFFFFF, 65), "<U1")}))
    with pytest.raises(DataError, match="names"):
        tasks(archive=path)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "x.npz", 40_000_000  # 7.7 GB of zeros in as many kB
    header = member(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 8, 8, 3), }}", b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if name == "x_train":
                    file.write(header)
                    for _ in range(320):  # 320 MB, enough to be found out; the header tells of more
                        file.write(bytes(10**6))
                else:
                    np.save(file, array)
    assert path.stat().st_size < 3 * 10**6
    with pytest.raises(DataError, match="more than 100 times its size in the file"):
        tasks(archive=path)


def test_names_of_members_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = folder / "x.npz"
    path.write_bytes(packed(ARRAYS))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside.npy", "/tmp/sidetune-outside.npy", "../../x_train.npy"):
            archive.writestr(name, b"outside")
    assert len(tasks(archive=path)) == 1
    assert [one.relative_to(tmp_path) for one in tmp_path.rglob("*") if one.is_file()] == [
        Path("inner/x.npz")
    ]
    assert not Path("/tmp/sidetune-outside.npy").exists()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_spoilt_image_in_a_folder(suffix: str, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 12), (90, 20, 200)).save(tmp_path / split / name / f"0.{suffix}")
    path = tmp_path / "train" / "a" / f"0.{suffix}"
    good = path.read_bytes()
    before = sorted(tmp_path.rglob("*"))

    @given(raw=spoil_bytes(good) | st.binary(max_size=40))
    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        answer(lambda: tasks(root=(tmp_path,)))

    check()
    assert sorted(tmp_path.rglob("*")) == before
