"""`read_tensors` answers for any content of a file of weights, and runs no code in it."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.errors import WeightsError
from sidetune_core.storage.legacy_pickle import load_tensors
from sidetune_core.storage.weights import read_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "a.bias": torch.zeros(3, dtype=torch.bfloat16),
    "n": torch.tensor(4),
}
SAFE = safetensors.torch.save(TENSORS)


def headed(header: bytes, length: int | None = None, data: bytes = b"\0" * 16) -> bytes:
    """A safetensors file with this header, of which `length` may be a wrong length."""
    return struct.pack("<Q", len(header) if length is None else length % 2**64) + header + data


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """Headers with types, shapes and offsets that may be inconsistent."""
    size = st.integers(-1, 40) | st.sampled_from([2**31, 2**63, 2**64 - 1, 10**30])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(
                ["F32", "F64", "I64", "BF16", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X9", ""]
            ),
            "shape": st.lists(size, max_size=3),
            "data_offsets": st.lists(size, min_size=2, max_size=2),
        }
    )
    return draw(st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), entry, max_size=3))


@given(data=st.data())
def test_corrupt_safetensors(data: st.DataObject, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data.draw(spoil_bytes(SAFE) | st.binary(max_size=60)))
    answer(lambda: read_tensors(path))


@given(header=headers(), length=st.none() | st.integers(0, 200) | st.sampled_from([2**40, 2**63, 2**64 - 1]))
def test_safetensors_with_an_inconsistent_header(
    header: dict[str, Any], length: int | None, tmp_path: Path, answer: Any
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(headed(json.dumps(header).encode(), length))
    answer(lambda: read_tensors(path))


@pytest.mark.parametrize(
    "content",
    [
        headed(b"{}", 2**63),
        headed(b"{}", 2**64 - 1),
        headed(b"[" * 50_000),
        headed(b'{"a":{"dtype":"F32","shape":[1000000,1000000,1000000],"data_offsets":[0,16]}}'),
        headed(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
            b'"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
        ),
        headed(b'{"a":{"dtype":"F64","shape":[4],"data_offsets":[0,16]}}'),
        headed(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}'),
        b"",
    ],
)
def test_safetensors_that_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read weights from"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_corrupt_pickles(zipped: bool, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    good = path.read_bytes()

    @given(raw=spoil_bytes(good) | st.binary(max_size=60))
    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        answer(lambda: read_tensors(path))

    check()


@given(data=st.data())
def test_a_corrupt_pickle_inside_an_intact_zip(
    data: st.DataObject, tmp_path: Path, spoil_bytes: Any, answer: Any
) -> None:
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path)
    _replace(path, lambda pickled: data.draw(spoil_bytes(pickled)))
    answer(lambda: read_tensors(path))


class Mark:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("read", [read_tensors, load_tensors])
def test_code_in_a_pickle_is_not_run(read: Callable[[Path], Any], protocol: int, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    torch.save({"w": torch.ones(2)}, path)
    _replace(path, lambda _: pickle.dumps({"w": Mark(mark)}, protocol))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if read is read_tensors:
            with pytest.raises(WeightsError):
                read(path)
        else:
            read(path)
    assert not mark.exists()
    path.write_bytes(pickle.dumps({"w": Mark(mark)}, protocol))
    with pytest.raises((WeightsError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError)):
        read(path)
    assert not mark.exists()


def _replace(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrite the zip archive of a file of torch.save with another pickle in it."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members:
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
