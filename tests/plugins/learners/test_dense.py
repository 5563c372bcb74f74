"""Every learner and merger on dense tasks, with their own heads and losses: maps in, images out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core import RunSpec, resume, run
from sidetune_core.certificate.verify import verify
from sidetune_core.config.kinds import LEARNER, MERGER
from sidetune_core.config.registry import find, installed, load
from sidetune_core.storage.run_folder import open_run

OPTIONS: dict[str, dict[str, Any]] = {
    "bsp": {"period": 2},
    "distill": {"match": "output"},
    "ewc": {"fisher": "empirical", "examples": 2},
    "pnn": {"dense": True},
}
BUILT_IN = [
    [plugin.name for plugin in installed(kind) if plugin.distribution == "sidetune"]
    for kind in (LEARNER, MERGER)
]


@pytest.fixture
def spec(write_taskonomy: Callable[..., Path], tmp_path: Path) -> Callable[..., RunSpec]:
    """A run of three tasks, of two steps each: regression maps, class maps and image classes."""
    domains = ("rgb", "normal", "segment_semantic", "class_object", "depth_zbuffer")
    root = write_taskonomy(tmp_path / "data", points=1, domains=domains)

    def make(learner: str, **components: Any) -> RunSpec:
        env = {"name": "taskonomy", "root": str(root), "train_buildings": ("hanson",)}
        env |= {"test_buildings": ("merom",), "domains": ("normal", "segment_semantic", "class_object")}
        env |= {"image_size": 32, "decoder_width": 16, "cache_dir": str(tmp_path / "cache")}
        kinds = load(find(LEARNER, learner))
        slots = {"side": "fcn3", "merger": "alpha"} | components
        used = {
            slot: name
            for slot, name in slots.items()
            if slot in kinds.needs or slot in kinds.optional_components
        }
        train = {"steps": 2, "batch": 2, "device": "cpu", "precision": "fp32"}
        base, chosen = {"name": "taskonomy", "width": 2}, {"name": learner, **OPTIONS.get(learner, {})}
        return RunSpec(base=base, learner=chosen, env=env, train=train, **used)

    return make


@pytest.mark.parametrize("learner", sorted({*BUILT_IN[0]} - {"ncm", "slda"}))  # they need classes
def test_every_learner_trains_dense_tasks(learner: str, spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    done = run(spec(learner), tmp_path / "run", save_every="none")
    last = done.results.rows[-1]
    assert len(last) == 3
    assert all(loss is not None and loss > 0 for loss in last)
    assert (done.results.metric, done.results.higher_is_better) == ("loss", False)
    image = torch.rand(2, 3, 32, 32)
    shapes = {"normal": (2, 3, 32, 32), "segment-semantic": (2, 18, 32, 32), "class-object": (2, 1000)}
    assert {task: tuple(done.predict({"image": image}, task).shape) for task in shapes} == shapes


@pytest.mark.parametrize("merger", BUILT_IN[1])
def test_every_merger_merges_maps(merger: str, spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    made = spec("sidetune", merger=merger)
    assert made.env is not None
    made.env.options["domains"] = "normal"
    assert len(run(made, tmp_path / "run", save_every="none").results.rows) == 1


def test_images_are_written_and_a_dense_run_is_verified_and_resumed(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    made = spec("sidetune")
    run(made, tmp_path / "run", save_every="none")
    files = sorted((tmp_path / "run" / "pictures").iterdir())
    tasks, kinds = (
        ("class-object", "normal", "segment-semantic"),
        ("error", "input", "prediction", "target"),
    )
    names = [f"{task}.{kind}.png" for task in tasks for kind in kinds]
    assert [path.name for path in files] == names
    before = {path.name: path.read_bytes() for path in files}
    verification = verify(open_run(tmp_path / "run"))
    assert verification.problems == ()
    assert verification.certificate.verdict == "zero by construction"
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if "3" in path.name:  # the checkpoint after the third task
            path.unlink()
    resume(tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "pictures").iterdir()} == before
