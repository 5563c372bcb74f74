"""Chains of checkpoints: what each file holds, damage, and checkpoints of the former layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.config.identity import Identity
from sidetune_core.errors import RunError
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import MidTaskState
from sidetune_core.storage.nested_state import flatten
from sidetune_core.storage.weights import write_tensors

IDENTITY = Identity({"seed": 0}, "0a1b", [], True, {}, {"torch": "2.11.0"}, 1, 1, "cpu")


class Growing(nn.Module):
    """A frozen base, a side for each task, a counter that is extra state, and a buffer with examples."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.sides, self.examples = nn.Linear(4, 4), nn.ModuleDict(), BufferDict()
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: dict[str, Any] = {"sums": [], "count": 0}

    def train_on(self, task: str) -> None:
        """Adds what a task adds, and changes what it changes."""
        self.sides[task] = nn.Linear(2, 2)
        self.scale.data += 1
        self.examples[task] = torch.full((3,), float(len(self.sides)))
        self.seen = {"sums": [torch.ones(2) * len(self.sides)], "count": len(self.sides)}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def save(folder: Path, learner: Growing, count: int, identity: Identity | None = IDENTITY) -> dict[str, Any]:
    """Trains on one more task and saves; returns a copy of the state."""
    learner.train_on(f"t{count - 1}")
    tasks = [f"t{k}" for k in range(count)]
    states = {task: {"rows": torch.arange(k), "k": k} for k, task in enumerate(tasks)}
    base = {name for name in learner.state_dict() if name.startswith("base")}
    checkpoint.save(folder, learner, tasks, {"eval.jsonl": (count, "x")}, states, identity, base=base)
    return copied(learner.state_dict())


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def save_in_former_layout(folder: Path, learner: Growing, count: int) -> dict[str, Any]:
    """As versions did that wrote all tensors into each checkpoint."""
    learner.train_on(f"t{count - 1}")
    state = learner.state_dict()
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra, inner = flatten({key: value for key, value in state.items() if key not in tensors})
    tasks, of_tasks = flatten({"t0": {"rows": torch.arange(3)}}, "task_states")
    tensors |= inner | of_tasks
    done = [f"t{k}" for k in range(count)]
    values = {"done": done, "marks": {}, "identity": IDENTITY.to_json(), "extra": extra, "task_states": tasks}
    text, path = json.dumps(values), checkpoint.boundary(folder, count)
    write_tensors(path, tensors)
    sha256 = hashlib.sha256(f"{text}\n{hashing.fingerprint(tensors)}".encode()).hexdigest()
    path.with_suffix(".json").write_text(f'{{"state": {text}, "sha256": "{sha256}"}}\n')
    return copied(state)


def same(first: Any, second: Any) -> bool:
    """Whether nested states are equal, with the order of their keys."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def names(path: Path) -> set[str]:
    """The tensors of a file."""
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


def test_each_checkpoint_gives_the_whole_state_in_order(tmp_path: Path) -> None:
    learner = Growing()
    states = [save(tmp_path, learner, count) for count in (1, 2, 3)]
    for count, state in enumerate(states, 1):
        back = checkpoint.read(checkpoint.boundary(tmp_path, count))
        assert same(back.state, state)
        assert (back.done, back.marks) == ([f"t{k}" for k in range(count)], {"eval.jsonl": [count, "x"]})
        assert (list(back.tasks), back.identity) == (back.done, IDENTITY)
        assert back.tasks[f"t{count - 1}"]["rows"].tolist() == list(range(count - 1))


def test_a_file_has_what_is_new_or_changed(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        save(tmp_path, learner, count)
    assert names(tmp_path / "base.safetensors") == {"base.weight", "base.bias"}
    assert names(tmp_path / "after-002.safetensors") == {
        *("sides.t1.weight", "sides.t1.bias", "scale", "examples.t1"),
        *("_extra_state/sums/0", "task_states/t1/rows"),
    }


def test_the_json_of_a_step_does_not_repeat_what_has_not_changed(tmp_path: Path) -> None:
    learner = Growing()
    sizes = []
    for count in range(1, 31):
        save(tmp_path, learner, count)
        sizes.append(len((tmp_path / f"after-{count:03d}.json").read_bytes()))
    assert sizes[29] - sizes[9] < 20


def test_another_identity_is_recorded_where_it_begins(tmp_path: Path) -> None:
    learner, other = Growing(), attrs.evolve(IDENTITY, threads=2)
    for count, identity in enumerate((IDENTITY, IDENTITY, other, other, IDENTITY), 1):
        save(tmp_path, learner, count, identity)
    paths = [checkpoint.boundary(tmp_path, count) for count in range(1, 6)]
    expected = [IDENTITY, IDENTITY, other, other, IDENTITY]
    assert [checkpoint.read(path).identity for path in paths] == expected
    assert [checkpoint.recorded_identity(path) for path in paths] == expected
    assert ["identity" in json.loads(path.with_suffix(".json").read_text())["state"] for path in paths] == [
        *(True, False, True, False, True)
    ]


def test_a_tensor_that_is_gone_is_not_read(tmp_path: Path) -> None:
    learner = Growing()
    first = save(tmp_path, learner, 1)
    learner.examples.replace({})
    learner.sides = nn.ModuleDict()
    second = save(tmp_path, learner, 2)
    assert same(checkpoint.read(checkpoint.boundary(tmp_path, 1)).state, first)
    assert same(checkpoint.read(checkpoint.boundary(tmp_path, 2)).state, second)
    assert "examples.t0" in first.keys() - second.keys()


def test_a_part_is_read_without_the_files_that_it_does_not_need(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        state = save(tmp_path, learner, count)
    (tmp_path / "base.safetensors").unlink()
    path = checkpoint.boundary(tmp_path, 2)
    assert checkpoint.parts(path) == ["base", "examples", "scale", "sides", "sides.t0", "sides.t1"]
    assert checkpoint.read_part(path, "sides.t0")["weight"].equal(state["sides.t0.weight"])
    with pytest.raises(RunError, match=r"base.safetensors is missing"):
        checkpoint.read_part(path, "base")
    with pytest.raises(RunError, match=r"has no module 'heads'; it has base"):
        checkpoint.read_part(path, "heads")


def mid_task(learner: Growing) -> MidTaskState:
    before = hashing.digests({k: v for k, v in learner.state_dict().items() if isinstance(v, Tensor)})
    return MidTaskState(["t2"], 5, before, [torch.ones(1)], {0: {"step": torch.ones(1)}}, {"python": (1, 2)})


def test_a_checkpoint_within_a_task_has_what_the_files_before_it_lack(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        save(tmp_path, learner, count)
    learner.train_on("t2")
    state, expected = learner.state_dict(), mid_task(learner)
    checkpoint.save_mid_task(tmp_path, learner, ["t0", "t1"], {}, {}, IDENTITY, expected)
    assert not [
        name for name in names(tmp_path / checkpoint.MID_TASK) if name.startswith(("base", "sides.t1"))
    ]
    back = checkpoint.find(tmp_path, pytest.fail)
    assert back is not None
    assert back.mid_task is not None
    assert same(back.state, state)
    assert (back.done, back.tasks, back.identity) == (["t0", "t1"], {}, IDENTITY)
    assert same(attrs.asdict(back.mid_task) | {"before": None}, attrs.asdict(expected) | {"before": None})
    assert dict(back.mid_task.before) == expected.before


def test_a_checkpoint_within_a_task_does_not_fit_another_one_before_it(tmp_path: Path) -> None:
    learner = Growing()
    save(tmp_path, learner, 1)
    checkpoint.save_mid_task(tmp_path, learner, ["t0"], {}, {}, IDENTITY, mid_task(learner))
    save(tmp_path, Growing(), 1)
    lines: list[str] = []
    back = checkpoint.find(tmp_path, lines.append)
    assert str(back) == "after task t0"
    assert "within.safetensors is damaged (it follows another after-001 than" in lines[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:90])])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damage_is_named_with_the_checkpoints_that_need_it(
    harm: Callable[[Path], object], suffix: str, tmp_path: Path
) -> None:
    learner = Growing()
    states = [save(tmp_path, learner, count) for count in range(1, 5)]
    harm(tmp_path / f"after-003{suffix}")
    lines: list[str] = []
    back = checkpoint.find(tmp_path, lines.append)
    assert back is not None
    assert same(back.state, states[1])
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path}/after-003{suffix} is ")
    assert lines[0].endswith("; it is ignored, and so is after-004, which depends on it")


def test_without_its_base_no_checkpoint_can_be_used(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        save(tmp_path, learner, count)
    (tmp_path / "base.json").unlink()
    lines: list[str] = []
    assert checkpoint.find(tmp_path, lines.append) is None
    assert lines == [
        f"{tmp_path}/base.json is missing; it is ignored, and so are after-001, after-002, which depend on it"
    ]


def test_a_new_checkpoint_replaces_those_that_would_follow_it(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2, 3):
        save(tmp_path, learner, count)
    other = Growing()
    state = save(tmp_path, other, 1)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["after-001.json", "base.json"]
    assert same(checkpoint.read(checkpoint.boundary(tmp_path, 1)).state, state)


@pytest.mark.parametrize("name", ["after-002", "after-003", "../after-001", "within", "status"])
def test_a_file_follows_earlier_files_of_its_folder_only(name: str, tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        save(tmp_path, learner, count)
    path = tmp_path / "after-002.json"
    state = json.loads(path.read_text())["state"]
    state["predecessor"]["name"] = name
    sha256 = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    path.write_text(json.dumps({"state": state, "sha256": sha256}))
    with pytest.raises(RunError, match="after-002.json is damaged"):
        checkpoint.read(path.with_suffix(".safetensors"))


def test_the_former_layout_is_read_and_continued(tmp_path: Path) -> None:
    learner = Growing()
    former = [save_in_former_layout(tmp_path, learner, count) for count in (1, 2)]
    state = save(tmp_path, learner, 3)
    for count in (1, 2):
        back = checkpoint.read(checkpoint.boundary(tmp_path, count))
        assert same(dict(sorted(back.state.items())), dict(sorted(former[count - 1].items())))
        assert (back.done, back.identity) == ([f"t{k}" for k in range(count)], IDENTITY)
        assert back.tasks["t0"]["rows"].tolist() == [0, 1, 2]
    newest = checkpoint.find(tmp_path, pytest.fail)
    assert newest is not None
    assert same(dict(sorted(newest.state.items())), dict(sorted(state.items())))
    assert not (tmp_path / "base.json").exists()
    assert "base.weight" not in names(checkpoint.boundary(tmp_path, 3))


def test_damage_in_the_former_layout_is_detected(tmp_path: Path) -> None:
    learner = Growing()
    for count in (1, 2):
        save_in_former_layout(tmp_path, learner, count)
    save(tmp_path, learner, 3)
    flip(checkpoint.boundary(tmp_path, 2))
    lines: list[str] = []
    assert str(checkpoint.find(tmp_path, lines.append)) == "after task t0"
    assert len(lines) == 1
    assert "after-002.safetensors is damaged (its SHA-256 differs" in lines[0]
    assert lines[0].endswith("and so is after-003, which depends on it")
