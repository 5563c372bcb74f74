"""Reading, checking, writing and comparing weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn

from sidetune_core.errors import WeightsError
from sidetune_core.hashing import fingerprint
from sidetune_core.storage.weights import Published, fetch, fill, load_weights, read_tensors, write_tensors


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


# fill


def test_fill_copies_every_tensor() -> None:
    source, target = network(), network()
    fill(target, source.state_dict(), "w")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


def test_fill_takes_a_prefix_off() -> None:
    source, target = network(), network()
    fill(
        target, {f"module.{key}": value for key, value in source.state_dict().items()}, "w", prefix="module."
    )
    assert torch.equal(target[0].weight, source[0].weight)


def test_fill_does_without_the_counts_that_old_files_lack() -> None:
    tensors = {key: value for key, value in network().state_dict().items() if "num_batches" not in key}
    fill(network(), tensors, "w")


def test_fill_converts_half_precision_into_the_precision_of_the_network() -> None:
    target = network()
    fill(
        target,
        {
            key: value.half() if value.is_floating_point() else value
            for key, value in network().state_dict().items()
        },
        "w",
    )
    assert target[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("0.bias"), "missing keys 0.bias"),
        (
            lambda tensors: tensors.update(extra=torch.ones(1)),
            "unexpected keys extra",
        ),
        (
            lambda tensors: tensors.update({"0.weight": torch.ones(3, 5)}),
            "shapes differ: 0.weight (3, 5) in the file, (3, 2) in the network",
        ),
        (
            lambda tensors: tensors.clear(),
            "missing keys 0.bias, 0.weight, 1.bias, 1.running_mean and 2 more",
        ),
    ],
)
def test_fill_says_what_is_wrong(change: Callable[[dict[str, Tensor]], object], words: str) -> None:
    tensors = dict(network().state_dict())
    change(tensors)
    with pytest.raises(WeightsError) as caught:
        fill(network(), tensors, "some/file")
    assert str(caught.value).startswith("state_dict mismatch in some/file: ")
    assert words in str(caught.value)


def test_fill_says_all_that_is_wrong_at_once() -> None:
    tensors = dict(network().state_dict())
    tensors["2.bias"] = tensors.pop("0.bias")
    with pytest.raises(WeightsError, match=r"missing keys 0\.bias; unexpected keys 2\.bias"):
        fill(network(), tensors, "w")


def test_a_network_that_does_not_fit_is_left_as_it_was() -> None:
    target = network()
    before = fingerprint(target.state_dict())
    with pytest.raises(WeightsError):
        fill(target, {**network().state_dict(), "1.bias": torch.ones(9)}, "w")
    assert fingerprint(target.state_dict()) == before


# Files


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "float": torch.tensor([0.1, float("nan"), -0.0]),
        "half": torch.ones(2, 3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "turned": torch.arange(6.0).view(2, 3).T,
    }
    write_tensors(tmp_path / "w.safetensors", tensors)
    assert fingerprint(read_tensors(tmp_path / "w.safetensors")) == fingerprint(tensors)


def test_images_in_channels_last_are_written_in_the_usual_order(tmp_path: Path) -> None:
    value = torch.randn(2, 3, 4, 5)
    write_tensors(tmp_path / "w.safetensors", {"w": value.to(memory_format=torch.channels_last)})
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["w"], value)


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    write_tensors(tmp_path / "w.safetensors", {"a": whole, "b": whole, "c": whole[2:]})
    found = read_tensors(tmp_path / "w.safetensors")
    assert [found[key].tolist() for key in "abc"] == [whole.tolist(), whole.tolist(), whole[2:].tolist()]


def test_what_a_file_is_about_is_in_its_header(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.safetensors", {"w": torch.ones(1)}, {"part": "side"})
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"]) == {"part": "side"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": torch.zeros(2)})
    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(OSError, match="no space"):
        write_tensors(path, {"w": torch.ones(2)})
    assert torch.equal(read_tensors(path)["w"], torch.zeros(2))
    assert list(tmp_path.iterdir()) == [path]


def _fail(*_: object) -> None:
    raise OSError("no space")


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {"w": 3}, {"state_dict": {"w": "x"}}])
def test_a_file_without_a_state_dict_is_told(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError,
        match="has no state dict: expected tensors by name, at the top or under the key 'state_dict'",
    ):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3, "best": 93.1}]
)
def test_a_state_dict_is_read_alone_or_in_a_record(
    new_format: bool, wrap: Callable[[object], object], tmp_path: Path
) -> None:
    tensors = network().state_dict()
    torch.save(wrap(tensors), tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    assert fingerprint(read_tensors(tmp_path / "w.pth")) == fingerprint(tensors)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "text", ["", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "<html></html>"]
)
def test_a_file_of_something_else_is_told(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=rf"cannot read weights from .*{name}"):
        read_tensors(tmp_path / name)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file at"):
        read_tensors(tmp_path)


# load_weights


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_of_objects_is_loaded_by_path_from_its_tensors(new_format: bool, tmp_path: Path) -> None:
    """As the authors saved students: the network as an object, and keys of parallel training."""
    source, target = network(), network()
    keys = {f"module.{key}": value for key, value in source.state_dict().items()}
    content = {
        "epoch": 0,
        "state_dict": keys,
        "model": source,
        "optimizer": torch.optim.Adam([torch.ones(1)]),
    }
    path = tmp_path / "curvature_encoder_student.dat"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    load_weights(target, str(path), owner="w")
    assert fingerprint(target.state_dict()) == fingerprint(source.state_dict())
    with pytest.raises(WeightsError, match=f"could run code .*: sidetune convert {path}"):
        read_tensors(path)


def test_a_file_of_objects_without_a_state_dict_is_told(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="has no state dict"):
        load_weights(network(), str(tmp_path / "w.pth"), owner="w")


def test_none_leaves_a_network_at_random(tmp_path: Path) -> None:
    target = network()
    before = fingerprint(target.state_dict())
    load_weights(target, "none", owner="base 'b'", packaged=tmp_path / "absent")
    assert fingerprint(target.state_dict()) == before


def test_packaged_weights_are_used_where_they_are(tmp_path: Path) -> None:
    source, target = network(), network()
    write_tensors(tmp_path / "w.safetensors", source.state_dict())
    load_weights(target, "packaged", owner="base 'b'", packaged=tmp_path / "w.safetensors")
    assert fingerprint(target.state_dict()) == fingerprint(source.state_dict())


# fetch


def published(tmp_path: Path, content: bytes = b"weights") -> Published:
    (tmp_path / "remote.pth").write_bytes(content)
    return Published("w.pth", (tmp_path / "remote.pth").as_uri(), hashlib.sha256(b"weights").hexdigest())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_published_file_is_downloaded_once(tmp_path: Path, home: Path) -> None:
    one = published(tmp_path)
    assert fetch(one) == home / "weights" / "w.pth"
    (tmp_path / "remote.pth").unlink()
    assert fetch(one).read_bytes() == b"weights"


def test_a_file_put_there_by_hand_does(tmp_path: Path, home: Path) -> None:
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "w.pth").write_bytes(b"weights")
    assert fetch(published(tmp_path, b"something else")).read_bytes() == b"weights"


def test_a_download_of_something_else_is_refused_and_not_kept(tmp_path: Path, home: Path) -> None:
    with pytest.raises(WeightsError, match="cannot download"):
        fetch(published(tmp_path, b"something else"))
    assert list((home / "weights").iterdir()) == []


def test_without_a_network_it_says_where_to_put_the_file(tmp_path: Path, home: Path) -> None:
    one = published(tmp_path)
    (tmp_path / "remote.pth").unlink()
    with pytest.raises(WeightsError) as caught:
        fetch(one)
    assert f"put it at {home / 'weights' / 'w.pth'}, and run again" in str(caught.value)


# fingerprint


BEFORE = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5.0])}


def last_bit() -> dict[str, Tensor]:
    changed = {key: value.clone() for key, value in BEFORE.items()}
    changed["a"].view(torch.int32)[1, 1] ^= 1
    return changed


@pytest.mark.parametrize(
    "other",
    [
        last_bit(),
        {**BEFORE, "b": torch.tensor([-5.0])},
        {"a": BEFORE["a"], "c": BEFORE["b"]},
        {"a": BEFORE["b"], "b": BEFORE["a"]},
        {**BEFORE, "a": BEFORE["a"].view(4)},
        {**BEFORE, "a": BEFORE["a"].view(1, 4)},
        {**BEFORE, "a": BEFORE["a"].view(torch.int32)},
        {**BEFORE, "c": torch.empty(0)},
        {"a": BEFORE["a"]},
        {**BEFORE, "a": BEFORE["a"].T},
    ],
    ids=["bit", "sign", "name", "swap", "shape", "rank", "dtype", "more", "fewer", "order"],
)
def test_any_difference_changes_the_fingerprint(other: dict[str, Tensor]) -> None:
    assert fingerprint(other) != fingerprint(BEFORE)


def test_zero_and_minus_zero_differ() -> None:
    assert fingerprint({"a": torch.tensor(0.0)}) != fingerprint({"a": torch.tensor(-0.0)})


def test_order_and_memory_layout_do_not_change_the_fingerprint() -> None:
    turned = {"b": BEFORE["b"].clone(), "a": BEFORE["a"].T.contiguous().T}
    assert fingerprint(turned) == fingerprint(BEFORE)
