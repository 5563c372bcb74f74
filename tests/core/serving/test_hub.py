"""Adapters are uploaded to a hub and read back, against a local stub of its file API."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sidetune_core import load
from sidetune_core.cli.main import main
from sidetune_core.errors import PluginError, RunError
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.adapter_folder import read_files
from sidetune_core.serving.export import export_adapter
from sidetune_core.serving.hub import HubAddress, download, parse_address, push

from .conftest import Train
from .hub_server import TOKEN, Hub, Repository

ADDRESS = HubAddress("me/acme")


def test_an_address_has_a_repository_and_a_revision() -> None:
    assert parse_address("hf://me/acme@v1") == HubAddress("me/acme", "v1")


def test_the_revision_is_main_by_default() -> None:
    assert parse_address("hf://me/acme") == HubAddress("me/acme", "main")


@pytest.mark.parametrize("text", ["hf://acme", "hf://me/acme/more", "hf:///acme", "hf://me/"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="hf://owner/name"):
        parse_address(text)


def test_an_uploaded_adapter_has_its_files_and_no_others(adapter: Path, hub: Hub) -> None:
    (adapter / "private.txt").write_text("secret")
    upload = push(adapter, ADDRESS)
    files = hub.repositories["me/acme"].branches["main"]
    assert sorted(files) == ["README.md", "adapter.safetensors", "base.safetensors", "task.json"]
    assert files["task.json"] == (adapter / "task.json").read_bytes()
    assert "private.txt" in upload.notes[0]


def test_a_downloaded_adapter_is_the_uploaded_one(adapter: Path, hub: Hub) -> None:
    push(adapter, ADDRESS)
    found = download(ADDRESS)
    trained = read_adapter(found.folder, links_within=found.links_within)
    assert trained.tasks == ("t1",)
    assert trained.state.keys() == read_adapter(adapter).state.keys()


def test_a_model_is_loaded_by_its_address(adapter: Path, hub: Hub) -> None:
    push(adapter, ADDRESS)
    image = torch.rand(1, 3, 16, 16)
    expected = load(adapter).outputs(image)
    assert torch.equal(load("hf://me/acme").outputs(image), expected)


def test_a_private_repository_is_private(adapter: Path, hub: Hub) -> None:
    push(adapter, ADDRESS, private=True)
    assert hub.repositories["me/acme"].private


def test_nothing_private_is_uploaded_to_a_public_repository(adapter: Path, hub: Hub) -> None:
    hub.repositories["me/acme"] = Repository()
    with pytest.raises(RunError, match="exists and is public, so nothing was uploaded"):
        push(adapter, ADDRESS, private=True)


def test_another_revision_is_a_branch(adapter: Path, hub: Hub) -> None:
    push(adapter, HubAddress("me/acme", "v1"))
    branches = hub.repositories["me/acme"].branches
    assert ("task.json" in branches["v1"], "task.json" in branches["main"]) == (True, False)


def test_a_revision_can_be_downloaded(adapter: Path, hub: Hub) -> None:
    push(adapter, HubAddress("me/acme", "v1"))
    found = download(HubAddress("me/acme", "v1"))
    assert read_files(found.folder, found.links_within).task == "t1"


def test_an_upload_removes_a_base_that_the_adapter_no_longer_has(
    adapter: Path, train: Train, tmp_path: Path, hub: Hub
) -> None:
    push(adapter, ADDRESS)
    push(export_adapter(train(), "t1", tmp_path / "without").folder, ADDRESS)
    assert "base.safetensors" not in hub.repositories["me/acme"].branches["main"]


def test_a_dry_run_needs_no_network(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    upload = push(adapter, ADDRESS, dry_run=True)
    assert upload.files["task.json"] == (adapter / "task.json").stat().st_size


def test_a_damaged_adapter_is_not_uploaded(adapter: Path, hub: Hub) -> None:
    (adapter / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="it was cut or replaced"):
        push(adapter, ADDRESS)
    assert not hub.requests


def test_a_second_download_without_network_is_read_from_the_cache(
    adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(adapter, ADDRESS)
    folder = download(ADDRESS).folder
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download(ADDRESS).folder == folder


def test_no_network_and_no_cache_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="no connection to http://127.0.0.1:9, and it is not in the cache"):
        download(ADDRESS)


def test_a_missing_repository_is_named(hub: Hub) -> None:
    with pytest.raises(RunError, match="no model 'me/none' on http"):
        download(HubAddress("me/none"))


def test_a_missing_revision_is_named(adapter: Path, hub: Hub) -> None:
    push(adapter, ADDRESS)
    with pytest.raises(RunError, match="me/acme on http.* has no revision 'v9'"):
        download(HubAddress("me/acme", "v9"))


def test_a_refused_upload_is_a_sentence_without_the_token(
    adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong0123456789wrong0123456789")
    with pytest.raises(RunError, match="cannot upload hf://me/acme|no model 'me/acme'") as raised:
        push(adapter, ADDRESS)
    assert "hf_wrong" not in str(raised.value)


def test_a_link_out_of_the_cache_is_refused(adapter: Path, hub: Hub, tmp_path: Path) -> None:
    push(adapter, ADDRESS)
    found = download(ADDRESS)
    (tmp_path / "secret.json").write_text("{}")
    (found.folder / "task.json").unlink()
    (found.folder / "task.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(RunError, match="is a symbolic link"):
        read_files(found.folder, found.links_within)


def test_the_command_prints_the_address_and_no_token(
    adapter: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(adapter), "me/acme"]) == 0
    printed = "".join(capsys.readouterr())
    assert 'sidetune_core.load("hf://me/acme")' in printed
    assert TOKEN not in printed


def test_the_command_notes_that_a_random_base_is_missing(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_adapter(train(), "t1", tmp_path / "adapter").folder
    assert main(["push", str(folder), "me/acme", "--dry-run"]) == 0
    assert "whose weights are random" in capsys.readouterr().out


def test_without_the_library_the_extra_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PluginError, match=r"pip install 'sidetune\[hub\]'"):
        push(adapter, ADDRESS)
