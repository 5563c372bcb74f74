"""`sidetune export`: adapters of tasks, and weights of components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sidetune_core import RunSpec, load, run
from sidetune_core.cli.main import main
from sidetune_core.storage.weights import read_tensors


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of digits on the packaged base."""
    spec = RunSpec(
        learner="features",  # type: ignore[arg-type]
        base="resnet44",  # type: ignore[arg-type]
        env={"name": "digits", "num_tasks": 2},  # type: ignore[arg-type]
        train={"steps": 1, "batch_size": 4},
    )
    return run(spec, tmp_path_factory.mktemp("runs") / "run", quiet=True).folder.path


@pytest.fixture
def export(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns status, output and errors."""

    def call(*argv: str) -> tuple[int, str, str]:
        status = main(["export", str(run_folder), *argv])
        return status, *capsys.readouterr()

    return call


Export = Callable[..., tuple[int, str, str]]


def test_an_adapter_is_written_and_its_sizes_are_printed(export: Export, tmp_path: Path) -> None:
    status, printed, _ = export("--task", "t1", "--out", str(tmp_path / "a"))
    assert status == 0
    assert "task t1, adapter 0.00 MB; base 2.64 MB; ratio 1 : " in printed
    assert load(tmp_path / "a").tasks == ("t1",)


def test_the_folder_is_named_for_the_task_by_default(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export("--task", "t1")
    assert (tmp_path / "t1" / "task.json").is_file()


def test_the_name_of_a_network_s_file_needs_its_format(export: Export) -> None:
    status, _, told = export("--task", "t1", "--out", "t1.onnx")
    assert (status, told.endswith("for that file add --format onnx\n")) == (2, True)


def test_all_tasks_have_a_folder_each(export: Export, tmp_path: Path) -> None:
    export("--task", "all", "--out", str(tmp_path))
    assert load(tmp_path / "t0", tmp_path / "t1").tasks == ("t0", "t1")


def test_the_base_can_be_included(export: Export, tmp_path: Path) -> None:
    _, printed, _ = export("--task", "t0", "--out", str(tmp_path / "a"), "--with-base")
    assert "base 2.64 MB, included" in printed
    assert (tmp_path / "a" / "base.safetensors").is_file()


def test_the_licence_is_in_the_card(export: Export, tmp_path: Path) -> None:
    export("--task", "t0", "--out", str(tmp_path / "a"), "--licence", "mit")
    assert 'license: "mit"' in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


def test_an_unknown_task_is_refused_with_the_known_ones(export: Export, tmp_path: Path) -> None:
    status, _, error = export("--task", "t3", "--out", str(tmp_path / "a"))
    assert (status, "Tasks: t0, t1" in error) == (2, True)


def test_a_network_is_written_for_programs_without_sidetune(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "t1.pt2"
    assert export("--task", "t1", "--format", "torch-export", "--out", str(path))[0] == 0
    output = torch.export.load(path).module()(torch.rand(3, 3, 32, 32))
    assert output.shape == (3, 2)


def test_an_adapter_has_the_network_of_its_run(export: Export, tmp_path: Path, run_folder: Path) -> None:
    export("--task", "t1", "--out", str(tmp_path / "a"))
    for name, source in (("run", run_folder), ("adapter", tmp_path / "a")):
        path = str(tmp_path / f"{name}.pt")
        assert main(["export", str(source), "--task", "t1", "--format", "torchscript", "--out", path]) == 0
    images = torch.rand(2, 3, 32, 32)
    first, second = (torch.jit.load(tmp_path / f"{name}.pt")(images) for name in ("run", "adapter"))
    assert torch.equal(first, second)


def test_a_component_is_written_as_before(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "head.safetensors"
    assert export("--part", "heads.t0", "--out", str(out))[0] == 0
    assert set(read_tensors(out)) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "t0", "--part", "base"], "--part and --task exclude each other"),
        (["--task", "t0", "--half"], "--half and --task exclude each other"),
        (["--with-base"], "--with-base needs a task: add --task"),
        (["--licence", "mit"], "--licence needs a task: add --task"),
        (["--format", "onnx"], "--format needs a task: add --task"),
        (["--task", "t0", "--format", "onnx", "--with-base"], "--with-base is for adapters, and --format is"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    export: Export, argv: list[str], message: str
) -> None:
    status, _, error = export(*argv)
    assert (status, message in error) == (2, True)
