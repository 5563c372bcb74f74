from __future__ import annotations

import copy
from pathlib import Path

import attrs
import pytest

from sidetune_core.assembly.cards import CardTask, DataNeeded, read_cards, write_cards
from sidetune_core.errors import FitError, RunError
from sidetune_core.interfaces.capabilities import HasTrainingSize, set_task_state, task_states
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.storage.run_folder import RunFolder


def card(head: str = "linear") -> TaskCard:
    outputs = Outputs.of_classes(3)
    return TaskCard("t0", "title", "sidetune/digits", {"image": (3, 8, 8)}, outputs, "accuracy", head=head)


def test_cards_are_read_from_the_folder_they_were_written_to(tmp_path: Path) -> None:
    write_cards(RunFolder(tmp_path), [card()])
    assert read_cards(RunFolder(tmp_path), ["t0"]) == {"t0": card()}


def test_the_card_of_a_trained_task_stays_as_it_is(tmp_path: Path) -> None:
    write_cards(RunFolder(tmp_path), [card()])
    write_cards(RunFolder(tmp_path), [attrs.evolve(card(), data="changed")], done=["t0"])
    assert read_cards(RunFolder(tmp_path), ["t0"])["t0"].data == ""


def test_a_run_without_cards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no card of task t0"):
        read_cards(RunFolder(tmp_path), ["t0"])


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    write_cards(RunFolder(tmp_path), [card()])
    (tmp_path / "tasks" / "t0.json").write_text("{}")
    with pytest.raises(RunError, match=r"tasks/t0.json is damaged"):
        read_cards(RunFolder(tmp_path), ["t0"])


def test_a_card_of_another_task_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("tasks/t0.json", attrs.evolve(card(), id="../x").to_json())
    with pytest.raises(RunError, match=r"t0.json is damaged: its id is '../x', and not that of its file"):
        read_cards(folder, ["t0"])


def test_a_linear_head_is_made_from_the_card() -> None:
    head = CardTask(card()).make_head((5,))
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(3, 5), (3,)]


def test_another_head_needs_the_env() -> None:
    with pytest.raises(FitError, match="from its data"):
        CardTask(card("env")).make_head((5,))


def test_a_task_without_data_cannot_be_evaluated() -> None:
    with pytest.raises(DataNeeded):
        CardTask(card()).evaluate(lambda inputs: inputs["image"])


def test_a_task_without_data_has_no_capability_of_its_env() -> None:
    task = CardTask(card())
    assert not isinstance(task, HasTrainingSize)
    with pytest.raises(DataNeeded, match="training_size"):
        task.training_size()


def test_a_task_without_data_can_be_copied() -> None:
    assert copy.deepcopy(CardTask(card())).id == "t0"


def test_a_task_without_data_keeps_its_state() -> None:
    task = CardTask(card())
    set_task_state(task, {"mean": 1.0})
    assert task_states([task]) == {"t0": {"mean": 1.0}}


@pytest.mark.parametrize(("head", "has_head"), [("linear", True), ("handler", False), ("env", False)])
def test_whether_a_card_suffices_for_the_head(head: str, has_head: bool) -> None:
    assert CardTask(card(head)).has_head is has_head
