"""Files of stages that are trained ahead of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sidetune_core.storage.ahead import ahead_path, delete_ahead, read_ahead, write_ahead
from sidetune_core.storage.unusable import Unusable


def test_nested_state_comes_back_and_a_file_can_be_deleted(tmp_path: Path) -> None:
    path = ahead_path(tmp_path, 3)
    write_ahead(path, {"state": {"side.weight": torch.arange(3.0)}, "lr": float("nan"), "steps": (1, None)})
    content = read_ahead(path)
    assert content["state"]["side.weight"].tolist() == [0, 1, 2]
    assert content["lr"] != content["lr"]
    assert content["steps"] == (1, None)
    delete_ahead(tmp_path, 3)
    delete_ahead(tmp_path, 3)
    assert not path.exists()


@pytest.mark.parametrize("at", [-1, 40], ids=["tensor", "header"])
def test_a_changed_byte_is_found(at: int, tmp_path: Path) -> None:
    path = ahead_path(tmp_path, 1)
    write_ahead(path, {"weight": torch.ones(4), "text": "x" * 100})
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(Unusable, match="is damaged"):
        read_ahead(path)
