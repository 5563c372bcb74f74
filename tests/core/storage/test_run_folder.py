"""Names that plugins give to files of the run folder are checked before a file is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sidetune_core.errors import PluginError
from sidetune_core.storage.images import save_image
from sidetune_core.storage.run_folder import RunFolder

BAD = ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0b", "x" * 300]


@pytest.mark.parametrize("name", BAD)
def test_a_document_of_a_name_that_is_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"documents\(\) of t0-test returned the name"):
        RunFolder(tmp_path / "run").write_document("t0-test", name, "text")
    assert not list(tmp_path.rglob("*"))


def test_a_document_is_written_under_its_name(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_document("t0-test", "predictions.json", "{}")
    assert (tmp_path / "documents" / "t0-test" / "predictions.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../x", ""])
def test_a_visualisation_of_a_name_that_is_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"visualisations\(\) of t0 returned the name"):
        save_image(RunFolder(tmp_path / "run"), "t0", name, torch.zeros(3, 2, 2))
    assert not list(tmp_path.rglob("*"))
