"""What a task predicts, and the texts that said so in version 0.1."""

from __future__ import annotations

import pickle

import pytest

from sidetune_core.api import ClassTask, Outputs
from sidetune_core.testing import sample


def test_classes_are_given_by_number_or_by_name() -> None:
    assert Outputs.of_classes(3) == Outputs("logits", 3)
    assert Outputs.of_classes(("cat", "dog")) == Outputs("logits", 2, ("cat", "dog"))


def test_names_that_do_not_fit_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match="3 outputs have 1 names"):
        Outputs("logits", 3, ("cat",))


def test_a_task_of_classes_knows_how_many() -> None:
    task, _ = sample.tasks()
    assert task.outputs == Outputs("logits", 2)


def test_a_text_is_taken_with_a_warning_where_a_class_or_an_object_sets_it() -> None:
    with pytest.warns(DeprecationWarning, match=r"outputs 'numbers' is now Outputs\('regression', size\)"):

        class Former(ClassTask):
            outputs = "numbers"  # type: ignore[assignment]

    assert Former.outputs.is_regression
    task, _ = sample.tasks()
    with pytest.warns(DeprecationWarning, match="'scores' is now"):
        task.outputs = "scores"  # type: ignore[assignment]
    assert task.outputs == Outputs("logits")


def test_outputs_equal_their_kind_as_a_text_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="Task.outputs.kind"):
        assert Outputs("regression") == "numbers"
    with pytest.warns(DeprecationWarning, match="Task.outputs.kind"):
        assert Outputs("regression") not in ("logits", "scores")


def test_outputs_survive_pickle() -> None:
    outputs = Outputs("logits", 2, ("cat", "dog"))
    assert pickle.loads(pickle.dumps(outputs)) == outputs


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        Outputs("classes")  # type: ignore[arg-type]
