"""What a report says of classes that are recognised badly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidetune_core.results.class_report import NAME, SHOWN_TASKS, WIDTH, class_lines
from sidetune_core.results.metrics import Results
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.class_metrics import ClassCounts

from .test_summary import evaluation, folder_of

LONG = "a name of very many characters"


def write(folder: RunFolder, task: str, true: list[int], predicted: list[int], *names: str) -> None:
    counts = ClassCounts.of(np.array(true), np.array(predicted), names)
    for name, text in counts.documents().items():
        folder.write_document(f"{task}-test", name, text)


def results_of(*tasks: str, trained: int | None = None) -> Results:
    known = len(tasks) if trained is None else trained
    row = tuple(0.5 if k < known else None for k in range(len(tasks)))
    return Results(tasks, (row,) if known else (), (0.5,) * len(tasks), "accuracy", higher_is_better=True)


def test_the_worst_classes_and_the_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, "t0", [0, 0, 0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 1, 0, 0, 1], "cat", "dog", "=owl")
    assert class_lines(folder, results_of("t0")) == (
        "classes, all tasks with errors (documents/TASK-test/ has them all):",
        "  t0: accuracy 55.6 %, balanced 27.8 %",
        "    lowest recall: 'dog' 0.0 % of 2, '=owl' 0.0 % of 1, 'cat' 83.3 % of 6",
        "    most confused: 'dog' as 'cat' (2), 'cat' as 'dog' (1), '=owl' as 'dog' (1)",
    )


def test_tasks_without_errors_and_without_documents_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, "t0", [0, 1], [0, 1], "cat", "dog")
    assert class_lines(folder, results_of("t0", "t1")) == ()


def test_tasks_that_are_not_trained_yet_are_left_out(tmp_path: Path) -> None:
    """Their documents are those of the untrained learner."""
    folder = RunFolder(tmp_path)
    for task in ("t0", "t1"):
        write(folder, task, [0, 1], [1, 1], "cat", "dog")
    assert class_lines(folder, results_of("t0", "t1", trained=0)) == ()
    lines = class_lines(folder, results_of("t0", "t1", trained=1))
    assert [line for line in lines if line.startswith("  t")] == ["  t0: accuracy 50.0 %"]


def test_a_long_stream_has_a_few_tasks_and_says_so(tmp_path: Path) -> None:
    folder, tasks = RunFolder(tmp_path), [f"t{k}" for k in range(50)]
    for k, task in enumerate(tasks):
        predicted = [0, 0, 0, 0] if k % 10 == 3 else [0, 0, 0, 1]
        write(folder, task, [0, 0, 1, 1], predicted, "cat", "dog")
    headline, *rest = class_lines(folder, results_of(*tasks))
    assert headline == (
        "classes, the 5 tasks of 50 with the lowest balanced accuracy (documents/TASK-test/ has them all):"
    )
    shown = [line.split(":")[0].strip() for line in rest if line.startswith("  t")]
    assert shown == ["t3", "t13", "t23", "t33", "t43"]
    assert len(shown) == SHOWN_TASKS


def test_lines_fit_a_terminal_whatever_the_names(tmp_path: Path) -> None:
    folder, names = RunFolder(tmp_path), [f"{LONG} {k}\n" for k in range(4)]
    write(folder, "t0", [0, 0, 1, 2, 3], [0, 1, 2, 3, 0], *names)
    lines = class_lines(folder, results_of("t0"))
    assert max(map(len, lines)) <= WIDTH
    assert f"'{LONG[: NAME - 1]}…' 0.0 % of 1" in lines[2]


def test_a_damaged_document_is_named_and_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, evaluation(1, "a", 0.5), evaluation(1, "b", 0.5))
    write(folder, "a", [0, 1], [1, 1], "cat", "dog")
    summary = summarise(folder)
    assert "- a: accuracy 50.0 %\n  - lowest recall: 'cat' 0.0 % of 1" in run_report(summary)
    folder.write_document("a-test", "classes.csv", "class\n")
    summary = summarise(folder)
    assert summary.classes == ()
    (left_out,) = summary.left_out
    assert left_out.startswith("documents is damaged: ValueError('a-test: the columns of classes.csv")
