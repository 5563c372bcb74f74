"""Run folders that are made smaller, at any moment of which a process may be killed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import hashing
from sidetune_core.certificate.verify import verify
from sidetune_core.cli.main import main
from sidetune_core.errors import RunError
from sidetune_core.storage import checkpoint, compaction
from sidetune_core.storage.compaction import clean
from sidetune_core.storage.lock import locked
from sidetune_core.storage.nested_state import flatten
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import write_tensors

LEARNERS = Path(__file__).parents[1] / "certificate" / "learners"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Runs of a learner that changes nothing old, and of one that changes everything, with three tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LEARNERS)
        folder = tmp_path_factory.mktemp("runs")
        for name, learner, keep in (
            ("features", "features", "all"),
            ("finetune", "finetune", "all"),
            ("last", "finetune", "last"),
        ):
            spec = sidetune_core.RunSpec(
                base="unreproducible:Linear", learner=learner, env="unreproducible:Points", seed=0
            )
            sidetune_core.run(spec, folder / name, keep=keep)
        yield {path.name: path for path in folder.iterdir()}


@pytest.fixture
def copy(tmp_path: Path, runs: dict[str, Path]) -> Any:
    """Copies a run, by its name."""
    return lambda name: RunFolder(Path(shutil.copytree(runs[name], tmp_path / "copy")))


def states(folder: RunFolder) -> dict[int, Any]:
    """What each checkpoint holds, as digests."""
    found = {}
    for count in sorted(folder.boundaries):
        back = checkpoint.read(checkpoint.boundary(folder.checkpoints, count))
        tensors = {key: value for key, value in back.state.items() if isinstance(value, Tensor)}
        found[count] = (hashing.digests(tensors), back.done, back.marks, back.identity, back.tasks)
    return found


def in_former_layout(folder: RunFolder) -> RunFolder:
    """The same checkpoints as earlier versions wrote them."""
    for count in sorted(folder.boundaries, reverse=True):
        path = checkpoint.boundary(folder.checkpoints, count)
        one = checkpoint.read(path)
        tensors = {key: value for key, value in one.state.items() if isinstance(value, Tensor)}
        extra, inner = flatten({key: value for key, value in one.state.items() if key not in tensors})
        tasks, of_tasks = flatten(one.tasks, "task_states")
        tensors |= inner | of_tasks
        assert one.identity is not None
        values = {"done": one.done, "marks": one.marks, "identity": one.identity.to_json()}
        text = json.dumps({**values, "extra": extra, "task_states": tasks})
        write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()})
        sha256 = hashlib.sha256(f"{text}\n{hashing.fingerprint(tensors)}".encode()).hexdigest()
        path.with_suffix(".json").write_text(f'{{"state": {text}, "sha256": "{sha256}"}}\n')
    for path in folder.checkpoints.glob("base.*"):
        path.unlink()
    return folder


def tensors_files(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.checkpoints.glob("*.safetensors")}


@pytest.mark.parametrize("name", ["features", "finetune"])
def test_the_former_layout_becomes_what_a_new_run_writes(name: str, copy: Any, runs: dict[str, Path]) -> None:
    folder = in_former_layout(copy(name))
    before = states(folder)
    clean(folder)
    assert states(folder) == before
    assert tensors_files(folder) == tensors_files(RunFolder(runs[name]))
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.parametrize("keep", [None, "last"])
@pytest.mark.parametrize("name", ["features", "finetune"])
def test_a_dry_run_reports_what_is_freed_and_changes_nothing(name: str, keep: Any, copy: Any) -> None:
    folder = in_former_layout(copy(name))
    size = sum(path.stat().st_size for path in folder.checkpoints.iterdir())
    (folder.path / ".status.0123abcd").write_text("x")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    planned = clean(folder, keep, dry_run=True)
    expected = planned.freed
    assert planned.notes == ()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert clean(folder, keep).freed == expected
    assert size + 1 - sum(path.stat().st_size for path in folder.checkpoints.iterdir()) == expected
    assert not (folder.path / ".status.0123abcd").exists()
    assert clean(folder, keep).freed == 0


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("keep", [None, "last"])
def test_killed_at_any_write_a_conversion_leaves_checkpoints_that_can_be_read(
    keep: Any, copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = in_former_layout(copy("finetune"))
    before, write = states(former), compaction.write_bytes
    expected = RunFolder(Path(shutil.copytree(former.path, tmp_path / "expected")))
    clean(expected, keep)
    for kill in range(100):
        folder = RunFolder(Path(shutil.copytree(former.path, tmp_path / str(kill))))
        writes = iter(range(100))

        def write_or_die(path: Path, data: bytes, kill: int = kill, writes: Any = writes) -> None:
            if next(writes) == kill:
                raise Killed
            write(path, data)

        monkeypatch.setattr(compaction, "write_bytes", write_or_die)
        try:
            clean(folder, keep)
            break
        except Killed:
            pass
        monkeypatch.setattr(compaction, "write_bytes", write)
        if keep is None:
            assert states(folder) == before
        else:
            newest = checkpoint.find(folder.checkpoints, pytest.fail)
            assert newest is not None
            assert hashing.digests(newest.state) == before[3][0]
        clean(folder, keep)
        assert tensors_files(folder) == tensors_files(expected)
    assert kill > 4


def test_a_run_converted_within_its_last_task_ends_with_the_same_state(
    copy: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(LEARNERS)
    folder = copy("finetune")
    for path in folder.checkpoints.glob("after-003.*"):
        path.unlink()
    in_former_layout(folder)
    (folder.path / "status").write_text("running\n")
    clean(folder)
    sidetune_core.resume(folder.path, trust_local_code=True)
    assert states(folder) == states(RunFolder(runs["finetune"]))
    assert verify(folder, trust_local_code=True).problems == ()


def test_a_damaged_checkpoint_is_left_as_it_is(copy: Any) -> None:
    folder = in_former_layout(copy("features"))
    before = states(folder)
    path = checkpoint.boundary(folder.checkpoints, 2)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (note,) = clean(folder).notes
    assert note.startswith(f"{path} is damaged (its SHA-256 differs")
    assert note.endswith("; after-002 was left as it is")
    assert path.read_bytes() == data
    for count in (1, 3):
        tensors = checkpoint.read(checkpoint.boundary(folder.checkpoints, count)).state
        assert hashing.digests(tensors) == before[count][0]


def test_with_keep_last_the_newest_checkpoint_alone_can_be_read(runs: dict[str, Path]) -> None:
    last, whole = RunFolder(runs["last"]), RunFolder(runs["finetune"])
    newest = checkpoint.boundary(last.checkpoints, 3)
    expected = checkpoint.read(checkpoint.boundary(whole.checkpoints, 3)).state
    assert hashing.digests(checkpoint.read(newest).state) == hashing.digests(expected)
    with pytest.raises(RunError, match=r"after-001.safetensors lacks .*; --keep last drops"):
        checkpoint.read(checkpoint.boundary(last.checkpoints, 1))
    sizes = [sum(map(len, tensors_files(folder).values())) for folder in (last, whole)]
    assert sizes[0] < sizes[1]


def test_with_keep_last_the_certificate_holds_and_says_what_is_not_recomputed(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(LEARNERS)
    assert main(["verify", str(runs["last"]), "--trust-local-code"]) == 0
    out = capsys.readouterr().out
    assert "of after-001, after-002 that later tasks changed were dropped (--keep last)" in out
    assert "holds" in out


def test_dropping_later_gives_the_same_files_and_is_recorded(copy: Any, runs: dict[str, Path]) -> None:
    folder = copy("finetune")
    clean(folder, "last")
    assert tensors_files(folder) == tensors_files(RunFolder(runs["last"]))
    assert folder.read_json("run.json")["keep"] == "last"
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_with_keep_last_is_resumed_to_the_same_bytes(
    count: int, copy: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a checkpoint was written, before earlier ones were made smaller."""
    monkeypatch.syspath_prepend(LEARNERS)
    folder = copy("finetune")
    folder.write_json("run.json", {**folder.read_json("run.json"), "keep": "last"})
    for later in range(count + 1, 4):
        for path in folder.checkpoints.glob(f"after-{later:03d}.*"):
            path.unlink()
    sidetune_core.resume(folder.path, trust_local_code=True)
    files = {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()}
    expected = {path.name: path.read_bytes() for path in (runs["last"] / "checkpoints").iterdir()}
    names = [name for name in expected if name.endswith(".safetensors")]
    assert {name: files[name] for name in names} == {name: expected[name] for name in names}
    assert verify(folder, trust_local_code=True).problems == ()


def test_dropped_tensors_are_a_problem_where_all_are_to_be_kept(copy: Any) -> None:
    folder = copy("last")
    folder.write_json("run.json", {**folder.read_json("run.json"), "keep": "all"})
    problems = verify(folder, trust_local_code=True).problems
    assert [line for line in problems if "but run.json does not state --keep last" in line]


def test_a_run_in_use_is_refused_and_others_are_cleaned(
    copy: Any, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("features")
    shutil.copytree(runs["finetune"], folder.path.parent / "other")
    with locked(folder.path):
        assert main(["clean", str(folder.path), str(folder.path.parent / "other"), "--keep", "last"]) == 1
    captured = capsys.readouterr()
    assert "is in use by process" in captured.err
    assert "freed in 1 run" in captured.out.splitlines()[-1]


def test_the_checkpoint_within_a_task_of_a_finished_run_is_deleted(copy: Any) -> None:
    folder = copy("features")
    state = checkpoint.MidTaskState(["t2"], 1, {})
    checkpoint.save_mid_task(folder.checkpoints, torch.nn.Linear(1, 1), ["t0"], {}, {}, None, state)
    clean(folder)
    assert not (folder.checkpoints / checkpoint.MID_TASK).exists()
