"""Whatever the files of an adapter contain, it is loaded, or refused with a readable error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core import RunSpec, load, run
from sidetune_core.hashing import file_digest
from sidetune_core.serving.adapter_folder import content_digest
from sidetune_core.serving.export import export_adapter


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with its base."""
    folder = tmp_path_factory.mktemp("good")
    spec = RunSpec(
        base="mlp",  # type: ignore[arg-type]
        side="mlp",  # type: ignore[arg-type]
        env={"name": "digits", "num_tasks": 1},  # type: ignore[arg-type]
        train={"steps": 1, "batch_size": 4},
    )
    run(spec, folder / "run", quiet=True)
    return export_adapter(folder / "run", "t0", folder / "adapter", with_base=True).folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(good, tmp_path / "adapter"))


def use(folder: Path) -> Any:
    """Load an adapter, and predict one blank image."""
    model = load(folder)
    (card,) = model.cards.values()
    return model.outputs({name: torch.zeros(1, *shape) for name, shape in card.inputs.items()})


def test_the_good_one_is_used(folder: Path) -> None:
    assert use(folder).shape == (1, 2)


@given(data=st.data())
def test_task_files_of_any_values(data: st.DataObject, folder: Path, spoil_values: Any, answer: Any) -> None:
    values = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    values.pop("sha256")
    spoilt = data.draw(spoil_values(values))
    if isinstance(spoilt, dict):
        spoilt["sha256"] = content_digest(spoilt)
    before = (folder / "task.json").read_bytes()
    try:
        (folder / "task.json").write_text(json.dumps(spoilt), encoding="utf-8")
        answer(lambda: use(folder))
    finally:
        (folder / "task.json").write_bytes(before)


@pytest.mark.parametrize("name", ["adapter.safetensors", "base.safetensors"])
@given(data=st.data())
def test_tensors_of_any_bytes(
    data: st.DataObject, name: str, folder: Path, spoil_bytes: Any, answer: Any
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    try:
        (folder / name).write_bytes(data.draw(spoil_bytes(before[folder / name])))
        values = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        values.pop("sha256")
        values["files"][name] = {
            "bytes": (folder / name).stat().st_size,
            "sha256": file_digest(folder / name),
        }
        values["sha256"] = content_digest(values)
        (folder / "task.json").write_text(json.dumps(values), encoding="utf-8")
        answer(lambda: use(folder))
    finally:
        for path, content in before.items():
            path.write_bytes(content)
