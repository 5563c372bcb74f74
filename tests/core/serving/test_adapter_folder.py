"""Damaged and hostile adapters are refused in a sentence, and nothing outside the folder is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from sidetune_core import load
from sidetune_core.cli.main import main
from sidetune_core.errors import RunError, SidetuneError, WeightsError
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.adapter_folder import is_adapter, read_files
from sidetune_core.storage.weights import read_tensors, write_tensors

from .conftest import alter, record_again

Values = dict[str, Any]


def test_an_adapter_is_known_by_its_task_file(adapter: Path, tmp_path: Path) -> None:
    assert (is_adapter(adapter), is_adapter(tmp_path)) == (True, False)


def test_files_are_read_back(adapter: Path) -> None:
    files = read_files(adapter)
    assert (files.task, list(files.cards), files.base is not None) == ("t1", ["t1"], True)


@pytest.mark.parametrize("name", ["adapter.safetensors", "task.json", "base.safetensors"])
def test_a_missing_file_is_named(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(RunError, match=f"has no file {name}"):
        read_files(adapter)


@pytest.mark.parametrize("name", ["adapter.safetensors", "base.safetensors"])
def test_a_truncated_file_is_named_with_its_sizes(adapter: Path, name: str) -> None:
    content = (adapter / name).read_bytes()
    (adapter / name).write_bytes(content[:-100])
    with pytest.raises(RunError, match=rf"{name} has [\d,]+ bytes, and task.json says [\d,]+: it was cut"):
        read_files(adapter)


@pytest.mark.parametrize("name", ["adapter.safetensors", "base.safetensors"])
def test_an_altered_file_is_named(adapter: Path, name: str) -> None:
    content = bytearray((adapter / name).read_bytes())
    content[-1] ^= 1
    (adapter / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name} was altered"):
        read_files(adapter)


def test_an_altered_task_file_is_noticed(adapter: Path) -> None:
    text = (adapter / "task.json").read_text(encoding="utf-8")
    (adapter / "task.json").write_text(text.replace('"accuracy"', '"accurate"'), encoding="utf-8")
    with pytest.raises(RunError, match="task.json was altered or cut"):
        read_files(adapter)


def test_a_truncated_task_file_is_noticed(adapter: Path) -> None:
    text = (adapter / "task.json").read_text(encoding="utf-8")
    (adapter / "task.json").write_text(text[:200], encoding="utf-8")
    with pytest.raises(RunError, match="task.json is damaged"):
        read_files(adapter)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"kind": "other"}'])
def test_another_json_file_is_no_adapter(adapter: Path, text: str) -> None:
    (adapter / "task.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="is not that of a sidetune adapter"):
        read_files(adapter)


def test_deeply_nested_json_is_a_sentence(adapter: Path) -> None:
    (adapter / "task.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(RunError, match="task.json is damaged"):
        read_files(adapter)


def test_a_later_format_is_refused(adapter: Path) -> None:
    alter(adapter, lambda values: values.update(format=9))
    with pytest.raises(RunError, match="has format 9, and this version of sidetune reads 1"):
        read_files(adapter)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda values: values.update(task="t9"), "no card of task 't9'"),
        (lambda values: values["cards"][0].update(id="../../etc"), "which is no file name"),
        (
            lambda values: values["cards"][0].update(inputs={"image": [3, 10**9, 10**9]}),
            "cannot have the shape",
        ),
        (
            lambda values: values["cards"][0]["outputs"].update(size=10**12, names=[]),
            "cannot have 1000000000000 outputs",
        ),
        (lambda values: values["cards"][0].update(inputs={"image": [3, -1, 4]}), "inputs are"),
        (lambda values: values["base"].update(digest="../../etc/passwd"), "the digest of its base"),
        (lambda values: values["base"].update(modules=[["base"]]), "its base is no reference"),
        (lambda values: values["files"].update({"../secret": {}}), "it has the files"),
        (lambda values: values["files"].pop("adapter.safetensors"), "it has the files"),
        (lambda values: values["files"].pop("base.safetensors"), "is no file of this adapter"),
        (lambda values: values.update(spec=[]), "its spec is"),
        (lambda values: values.update(extra={"tensor": 1, "float": 2}), "is damaged"),
        (lambda values: values.update(extra={"tensor": "none"}), "is damaged"),
        (
            lambda values: values.update(extra={"table": [["heads.t1.linear.weight", 3]]}),
            "extra state is that of",
        ),
        (lambda values: values.update(task_states=None), "is damaged"),
        (lambda values: values.update(task_states={"table": [["t1", 3]]}), "states of tasks that are none"),
        (lambda values: values.pop("cards"), "is damaged"),
    ],
)
def test_values_that_no_export_writes_are_refused(
    adapter: Path, change: Callable[[Values], object], match: str
) -> None:
    alter(adapter, change)
    with pytest.raises(RunError, match=match):
        read_files(adapter)


@pytest.mark.parametrize("name", ["adapter.safetensors", "task.json", "base.safetensors"])
def test_a_symbolic_link_is_not_followed(adapter: Path, tmp_path: Path, name: str) -> None:
    elsewhere = (adapter / name).rename(tmp_path / name)
    (adapter / name).symlink_to(elsewhere)
    with pytest.raises(RunError, match=f"{name} is a symbolic link"):
        read_files(adapter)


def test_a_link_to_the_base_is_not_followed_though_the_task_file_lists_none(
    adapter: Path, tmp_path: Path
) -> None:
    alter(adapter, lambda values: values["files"].pop("base.safetensors"))
    (adapter / "base.safetensors").rename(tmp_path / "elsewhere")
    (adapter / "base.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="base.safetensors is no file of this adapter"):
        read_files(adapter)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="posix only")
def test_a_pipe_is_not_waited_for(adapter: Path) -> None:
    (adapter / "task.json").unlink()
    os.mkfifo(adapter / "task.json")
    with pytest.raises(RunError, match="has no file task.json"):
        read_files(adapter)


def test_a_file_that_is_no_safetensors_is_a_sentence(adapter: Path) -> None:
    (adapter / "adapter.safetensors").write_bytes(b"\xff" * 64)
    record_again(adapter, "adapter.safetensors")
    with pytest.raises(WeightsError, match="cannot read weights from"):
        read_files(adapter)


def test_missing_tensors_are_named_when_the_learner_is_restored(adapter: Path) -> None:
    path = adapter / "adapter.safetensors"
    tensors = read_tensors(path)
    tensors.pop("heads.t1.linear.weight")
    write_tensors(path, tensors)
    record_again(adapter, path.name)
    with pytest.raises(WeightsError, match="missing keys heads.t1.linear.weight"):
        load(adapter)


def test_a_plugin_that_is_not_installed_is_named_with_the_command(adapter: Path) -> None:
    def change(values: Values) -> None:
        values["spec"]["learner"]["name"] = "acme-sidetune/agem"
        values["plugins"]["learner"] = {
            "name": "acme-sidetune/agem",
            "distribution": "acme-sidetune",
            "version": "1.2",
            "class": "acme:Agem",
        }

    alter(adapter, change)
    with pytest.raises(SidetuneError, match="pip install 'acme-sidetune==1.2'"):
        read_adapter(adapter)


def test_another_tensor_of_the_base_than_it_has_is_a_sentence(adapter: Path) -> None:
    alter(adapter, lambda values: values["base"].update(tensors={"base.x": "none"}))
    with pytest.raises(RunError, match="its base has no tensor 'none'"):
        read_adapter(adapter)


def test_the_task_file_is_plain_json(adapter: Path) -> None:
    values = json.loads((adapter / "task.json").read_text(encoding="utf-8"))
    assert values["kind"] == "sidetune adapter"


def test_the_command_line_refuses_a_damaged_adapter_without_a_traceback(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / "adapter.safetensors").write_bytes(b"")
    assert main(["push", str(adapter), "me/acme", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nested_state_of_learner_and_task_is_read_back(adapter: Path) -> None:
    nested = {"mean": torch.ones(2), "counts": (1, [2.5, None]), "worst": float("-inf")}
    files = read_files(adapter)
    changed = attrs.evolve(files, state={**files.state, "x._extra_state": nested}, task_states={"t1": nested})
    changed.write(adapter, None)
    again = read_files(adapter)
    for read in (again.state["x._extra_state"], again.task_states["t1"]):
        assert torch.equal(read.pop("mean"), nested["mean"])
        assert read == {"counts": (1, [2.5, None]), "worst": float("-inf")}


def test_an_adapter_of_countless_tasks_is_refused(adapter: Path) -> None:
    alter(adapter, lambda values: values.update(cards=values["cards"] * 5000))
    with pytest.raises(RunError, match="it has 5,000 cards of tasks, expected at most 4,096"):
        read_files(adapter)
