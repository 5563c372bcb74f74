"""A run in several processes ends as one in a single process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core import api
from sidetune_core.config import registry
from sidetune_core.config.kinds import LEARNER
from sidetune_core.config.option_tables import DeviceOptions
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.within import read_within
from sidetune_core.system import device

posix = pytest.mark.skipif(os.name != "posix", reason="forks, and sends signals")

Order = Callable[..., list[dict[str, Any]]]
STEPS = 6


def make_spec(archive: Path, learner: str, **train: Any) -> dict[str, Any]:
    """Networks with batch norm and dropout, batches of 5 out of 40. SGD, since Adam makes steps of one size
    of gradients that are nothing but rounding, as those of a bias in front of a batch norm are."""
    used: frozenset[str] = frozenset()
    if ":" not in learner:
        cls = registry.load(registry.find(LEARNER, learner))
        used = cls.needs | cls.optional_components
    return {
        "base": "tiny:TinyBase",
        "side": "tiny:TinySide" if "side" in used else None,
        "merger": "alpha" if "merger" in used else None,
        "learner": learner,
        "env": {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2},
        "train": {"steps": STEPS, "batch_size": 5, "lr": 0.05, "optimizer": "sgd", **train},
        "device": {"precision": "fp32"},
        "seed": 3,
    }


def messages(stderr: str) -> list[str]:
    """Our own messages; PyTorch's log may write warnings between them."""
    return [line for line in stderr.splitlines() if line.startswith(("error: ", "warning: "))]


def succeed(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert [(answer["status"], messages(answer["told"])) for answer in answers] == [(0, [])] * len(answers)
    return answers


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / "after-002.safetensors").state


def assert_same(folder: Path, whole: Path) -> None:
    """See that two runs have the same weights, curves and R, but for rounding."""
    torch.testing.assert_close(weights(folder), weights(whole), rtol=1e-4, atol=1e-5)
    for name in ("eval.jsonl", "metrics.jsonl"):
        found, expected = (
            flat([json.loads(line) for line in (one / name).read_text().splitlines()])
            for one in (folder, whole)
        )
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == (
                pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
            )
    assert accuracies(folder) == accuracies(whole)
    assert (folder / "status").read_text() == "done\n"


def accuracies(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "eval.jsonl").read_text().splitlines())
    return [line["figures"]["accuracy"] for line in lines if "figures" in line]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values as one table."""
    if not isinstance(value, dict | list):
        return {path: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: one for name, part in parts for key, one in flat(part, f"{path}/{name}").items()}


@posix
@pytest.mark.parametrize("learner", ["sidetune", "ewc", "lwf", "bsp", "joint"])
def test_two_processes_give_the_weights_and_the_results_of_one(
    learner: str, server: Order, image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, learner)
    (alone,) = succeed(server(1, tmp_path / "one", spec))
    both = succeed(server(2, tmp_path / "two", spec))
    assert_same(tmp_path / "two", tmp_path / "one")
    order = [whole for whole, _ in alone["ids"]]
    for answer in both:
        assert [whole for whole, _ in answer["ids"]] == order
    assert [
        first[1] + second[1] for first, second in zip(*(answer["ids"] for answer in both), strict=True)
    ] == order
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


@posix
def test_what_is_stored_and_replayed_does_not_depend_on_processes_and_micro_batches(
    server: Order, image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, "storing:Storing", batch_size=3, accumulate=2)
    spec["base"] = "dropping:DropBase"
    succeed(server(1, tmp_path / "one", spec))
    succeed(server(2, tmp_path / "two", spec))
    assert_same(tmp_path / "two", tmp_path / "one")
    assert weights(tmp_path / "two")["stored.row"].tolist() == list(range(6))


@posix
def test_evaluations_within_a_task_end_it_and_choose_its_weights_as_in_one_process(
    server: Order, image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, "finetune", steps=30, eval_every=2, patience=2, select="best")
    spec["env"]["val_fraction"] = 0.4
    succeed(server(1, tmp_path / "one", spec))
    succeed(server(2, tmp_path / "two", spec))
    one, two = (read_within(RunFolder(tmp_path / name)).selections for name in ("one", "two"))
    assert two == one
    assert any(selection["stopped"] for selection in one)
    assert any(selection["restored"] for selection in one)
    assert_same(tmp_path / "two", tmp_path / "one")


@posix
def test_a_shard_without_a_gradient_adds_none(server: Order, image_archive: Path, tmp_path: Path) -> None:
    spec = make_spec(image_archive, "partial:Partial")
    succeed(server(1, tmp_path / "one", spec))
    succeed(server(2, tmp_path / "two", spec))
    assert_same(tmp_path / "two", tmp_path / "one")


@posix
def test_a_signal_to_one_process_stops_all_at_the_same_step_and_another_number_goes_on(
    server: Order, image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, "ewc")
    succeed(server(1, tmp_path / "whole", spec))
    first, second = server(2, tmp_path / "cut", spec, harm="SIGTERM", rank=1, at=STEPS + 2)
    assert (first["status"], second["status"]) == (143, 143)
    assert f"Resume with: sidetune-run --resume {tmp_path / 'cut'}" in first["told"]
    assert "Resume with" not in second["told"]
    assert (tmp_path / "cut" / "status").read_text() == "interrupted\n"
    answers = succeed(server(3, tmp_path / "cut"))
    assert [len(answer["ids"]) for answer in answers] == [STEPS - 3] * 3
    assert_same(tmp_path / "cut", tmp_path / "whole")


@posix
def test_when_one_process_is_killed_all_end_and_the_run_can_be_gone_on_with(
    server: Order, image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, "sidetune")
    succeed(server(1, tmp_path / "whole", spec))
    first, second = server(2, tmp_path / "cut", spec, save_every="2", harm="SIGKILL", rank=1, at=3)
    assert (first["status"], second["status"]) == (2, -9)
    assert "another rank exited without reporting an error" in first["told"]
    succeed(server(2, tmp_path / "cut"))
    assert_same(tmp_path / "cut", tmp_path / "whole")


@posix
def test_an_error_in_one_process_ends_all_and_is_told_once(
    server: Order, image_archive: Path, tmp_path: Path
) -> None:
    first, second = server(
        2, tmp_path / "run", make_spec(image_archive, "sidetune"), harm="raise", rank=1, at=1
    )
    assert (first["status"], second["status"]) == (2, 2)
    assert messages(second["told"]) == ["error: the disk of this process is broken"]
    assert messages(first["told"]) == []
    status = (tmp_path / "run" / "status").read_text()
    assert status == "failed: rank 1 of 2: the disk of this process is broken\n"


@posix
@pytest.mark.parametrize(
    ("learner", "batch", "words"),
    [
        ("counting:Counting", 5, "total of Counting differ between the processes"),
        ("sidetune", 1, "a batch of 1 cannot be sharded over 2"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_all_and_told_once(
    learner: str, batch: int, words: str, server: Order, image_archive: Path, tmp_path: Path
) -> None:
    answers = server(2, tmp_path / "run", make_spec(image_archive, learner, batch_size=batch))
    assert [answer["status"] for answer in answers] == [2, 2]
    assert "".join(answer["told"] for answer in answers).count(words) == 1


@posix
def test_torchrun_starts_a_run_as_the_readme_says(server: Order, tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 8, "optimizer": "sgd"}
    spec = {
        "base": "resnet44",
        "learner": "finetune",
        "env": {"name": "digits", "num_tasks": 1},
        "train": train,
        "device": {"precision": "fp32"},
    }
    succeed(server(1, tmp_path / "one", spec))
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    words = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "two"), "--quiet"]
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        [
            scripts / "torchrun",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--no-python",
            scripts / "sidetune-run",
            *words,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, messages(done.stderr)) == (0, [])
    assert done.stdout.count("run folder") == 1
    found, expected = (
        checkpoint.read(tmp_path / name / "checkpoints" / "after-001.safetensors").state
        for name in ("two", "one")
    )
    torch.testing.assert_close(
        found, expected, rtol=1e-4, atol=5e-5
    )  # as far apart as in one process with channels first and last
    assert accuracies(tmp_path / "two") == accuracies(tmp_path / "one")


def test_shares_differ_by_one_at_most_and_make_the_batch() -> None:
    ids = torch.arange(11)
    batch = api.Batch(ids, api.Inputs({"x": ids[:, None] * 2.0}, ids), ids % 3)
    shares = [ProcessGroup(rank, 4).shard_batch(batch) for rank in range(4)]
    assert {len(share.batch.ids) for share in shares} == {2, 3}
    assert torch.equal(torch.cat([share.batch.ids for share in shares]), ids)
    assert torch.equal(torch.cat([share.batch.inputs["x"] for share in shares]), batch.inputs["x"])
    means = [share.weight * float(share.batch.targets.float().mean()) for share in shares]
    assert sum(means) == pytest.approx(float(batch.targets.float().mean()))


def test_a_gpu_by_number_is_refused_where_each_process_has_its_own() -> None:
    with pytest.raises(api.OptionError, match="each of several processes uses its own GPU"):
        device.choose(DeviceOptions(name="cuda:1"), local=0)
