"""`sidetune convert`: files of objects become safetensors, without their code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sidetune_plugins.sides.fcn import FCN3, FCNOptions

from sidetune_core.cli.main import main
from sidetune_core.storage.weights import read_tensors


class Encodes:
    """What a side reads of its base."""

    shape = (8, 4, 4)


def test_a_student_becomes_safetensors_and_its_side_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = FCN3(FCNOptions(), {"image": (3, 64, 64)}, Encodes())  # type: ignore[arg-type]
    path, out = tmp_path / "curvature-distilled.pth", tmp_path / "curvature-distilled.safetensors"
    keys = {f"module.{key}": value for key, value in side.state_dict().items()}
    torch.save({"epoch": 0, "state_dict": keys, "model": side}, path)
    assert main(["convert", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"use it with  --side fcn3 --side.weights {out}" in shown
    assert "178,816 values" in shown
    tensors = read_tensors(out)
    assert tensors.keys() == side.state_dict().keys()
    assert all(torch.equal(value, tensors[key]) for key, value in side.state_dict().items())
    assert main(["convert", str(path)]) == 2
    assert "exists; choose another file with --out" in capsys.readouterr().err


def test_components_without_a_file_of_weights_are_not_imported(tmp_path: Path) -> None:
    """The libraries of networks take seconds."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pth")
    code = (
        "import sys; from sidetune_core.cli.main import main; main(['convert', sys.argv[1]]); "
        "sys.exit('timm' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "w.pth")], check=True, stdout=subprocess.PIPE)
