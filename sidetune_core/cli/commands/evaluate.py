"""`sidetune evaluate`: the metrics of a trained run, on its own data or on others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, print_json
from sidetune_core.config import argv as arguments_of_run
from sidetune_core.config.arguments import split_arguments
from sidetune_core.config.data_record import shorten_changes
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import one_line
from sidetune_core.results.cells import format_value
from sidetune_core.results.tables import aligned, comma_separated
from sidetune_core.storage.run_folder import open_run

if TYPE_CHECKING:
    from sidetune_core.assembly.parts import Part
    from sidetune_core.config.resolve import ResolvedRun
    from sidetune_core.serving.evaluation import TaskEvaluation

ROUNDING = 1e-3
"""The largest relative difference that is called rounding."""
CLASS_METRICS = ("recall", "precision", "f1")
PERCENT = ("accuracy", "balanced_accuracy", *CLASS_METRICS)
"""Metrics in [0, 1] that are printed in percent."""


def evaluate(
    run: Positional[Path],
    argv: Positional[tuple[str, ...]] = (),
    split: str = "test",
    task: str | None = None,
    per_class: Switch = False,
    format: Literal["text", "csv", "json"] = "text",
    device: str | None = None,
    trust_local_code: Switch = False,
) -> int:
    """Evaluate the newest checkpoint of a run, on its own data or on others. The run is not changed.

    Other data are options of its env, or another env with the same tasks:

    sidetune evaluate runs/x --env.root new-photos

    Of a run with tasks of several envs, they replace the data of the env that --task is from.

    Says whether the values are those that the run has recorded, and whether the data are those of the run.

    Args:
        run: the run folder.
        argv: options of the env that differ: --env and --env.*, as in sidetune-run.
        split: a split of the env, such as 'val'.
        task: id of a task; default: all that are trained.
        per_class: also print recall, precision and F1 of each class.
        format: csv and json have values in full precision.
        device: such as 'cpu'; default: that of the run.
        trust_local_code: import code that the run names (module:Class).
    """
    from sidetune_core.assembly.parts import read_parts
    from sidetune_core.assembly.restore import read_resolved
    from sidetune_core.serving import evaluation

    if str(run).startswith("--"):
        raise OptionError("name the run first: sidetune evaluate RUN --env.root DIR")
    folder = open_run(run)
    parts = read_parts(folder, read_resolved(folder, trust_local_code), trust_local_code)
    evaluations = evaluation.evaluate_with(
        folder,
        parts,
        split,
        task,
        _other_data(parts, task, argv, trust_local_code),
        per_class=per_class,
        device=device,
        trust_local_code=trust_local_code,
    )
    if format == "json":
        print_json([_plain(one) for one in evaluations])
    elif format == "csv":
        print(comma_separated(list(_rows(evaluations))))
    else:
        print(aligned(_table(evaluations), left=(0, 1)))
        for one in evaluations:
            if one.classes:
                print(f"\n{one_line(one.task)}\n{aligned(_class_table(one))}")
        print("\n" + "\n".join(one_line(line) for line in _notes(evaluations)))
    return 0


def _other_data(
    parts: Sequence[Part], task: str | None, argv: Sequence[str], trust_local_code: bool
) -> ResolvedRun | None:
    """The run with other options of one of its envs; None if no options are given."""
    if not argv:
        return None
    for argument in split_arguments(argv):
        if argument.typed and argument.name != "env" and not argument.name.startswith("env."):
            raise OptionError(
                f"sidetune evaluate uses the trained components of the run, not {argument.typed}; pass --env "
                "and --env.* for other data"
            )
    from sidetune_core.serving.evaluation_data import replaced_part

    part = replaced_part(parts, None if task is None else [task])
    trust = ["--trust-local-code"] if trust_local_code else []
    return arguments_of_run.parse([*argv, *trust], start=part.resolved.requested).resolved


def _table(evaluations: Sequence[TaskEvaluation]) -> list[list[str]]:
    """A line for each task, with a column for each metric and one for the value that the run recorded."""
    names = list(dict.fromkeys(name for one in evaluations for name in one.metrics))
    table = [["task", "title", *names, "in the run"]]
    for one in evaluations:
        values = [_format(name, one.metrics[name]) if name in one.metrics else "" for name in names]
        recorded = _format(one.metric, one.recorded[one.metric]) if one.metric in one.recorded else "·"
        table.append([one.task, one.title, *values, recorded])
    return table


def _class_table(evaluation: TaskEvaluation) -> list[list[str]]:
    rows = [
        [
            one.name,
            *(_format(name, getattr(one, name)) for name in CLASS_METRICS),
            *map(str, (one.correct, one.predicted, one.count)),
        ]
        for one in evaluation.classes
    ]
    return [["class", *CLASS_METRICS, "correct", "predicted", "examples"], *rows]


def _format(name: str, value: float | None) -> str:
    percent = name in PERCENT and value is not None and 0 <= value <= 1
    return format_value(value, percent) + (" %" if percent else "")


def _notes(evaluations: Sequence[TaskEvaluation]) -> Iterator[str]:
    yield f"split {evaluations[0].split}; {_agreement(evaluations)}; {_data(evaluations)}"
    changes = list(dict.fromkeys(change for one in evaluations for change in one.data_changes))
    if changes:
        yield f"not as in the run: {shorten_changes(changes)}"
    for one in evaluations:
        if one.not_finite:
            yield f"{one.task}: {one.not_finite}"


def _agreement(evaluations: Sequence[TaskEvaluation]) -> str:
    compared = [one for one in evaluations if one.equals_recorded is not None]
    if not compared:
        return "the run has recorded no values for it"
    if tasks := [one.task for one in compared if one.metric in one.different]:
        return f"the values of {', '.join(tasks)} are not those that the run has recorded"
    differing = dict.fromkeys(name for one in compared for name in one.different)
    if not differing:
        return "the values are those that the run has recorded"
    metrics = ", ".join(dict.fromkeys(one.metric for one in compared))
    differences = ", ".join(f"{name} differs{_difference(name, compared)}" for name in differing)
    return f"the run has recorded the same {metrics}; {differences}"


def _difference(name: str, evaluations: Sequence[TaskEvaluation]) -> str:
    """``" by up to 1.8e-4 (…)"``; empty where a value is missing."""
    pairs = [(one.metrics.get(name), one.recorded[name]) for one in evaluations if name in one.different]
    numbers = [(value, recorded) for value, recorded in pairs if value is not None and recorded is not None]
    if len(numbers) < len(pairs):
        return ""
    is_small = all(abs(value - recorded) <= ROUNDING * abs(recorded) for value, recorded in numbers)
    cause = " (rounding: the cache, the batches or the device may differ)" if is_small else ""
    return f" by up to {max(abs(value - recorded) for value, recorded in numbers):.1e}{cause}"


def _data(evaluations: Sequence[TaskEvaluation]) -> str:
    if len({one.same_data for one in evaluations}) == 1:
        return _same_data("the data", evaluations[0].same_data)
    sentences = []
    for same in (True, False, None):
        if tasks := [one.task for one in evaluations if one.same_data is same]:
            sentences.append(_same_data(f"the data of {', '.join(tasks)}", same))
    return "; ".join(sentences)


def _same_data(data: str, same: bool | None) -> str:
    if same is None:
        return f"whether {data} are those of the run is not known"
    return f"{data} {'are' if same else 'are not'} those of the run (by their fingerprints)"


def _rows(evaluations: Sequence[TaskEvaluation]) -> Iterator[list[object]]:
    """A line for each metric, and for each class."""
    yield ["task", "title", "split", "class", "metric", "value", "recorded", "examples"]
    for one in evaluations:
        for name, value in one.metrics.items():
            yield [one.task, one.title, one.split, None, name, value, one.recorded.get(name), None]
        for each in one.classes:
            for name in CLASS_METRICS:
                value = getattr(each, name)
                yield [one.task, one.title, one.split, each.name, name, value, None, each.count]


def _plain(one: TaskEvaluation) -> dict[str, Any]:
    return {
        "task": one.task,
        "title": one.title,
        "split": one.split,
        "metric": one.metric,
        "metrics": dict(one.metrics),
        "recorded": dict(one.recorded),
        "equals_recorded": one.equals_recorded,
        "same_data": one.same_data,
        "data_changes": list(one.data_changes),
        "not_finite": one.not_finite,
        "classes": [
            {
                "name": each.name,
                "correct": each.correct,
                "predicted": each.predicted,
                "examples": each.count,
                **{name: getattr(each, name) for name in CLASS_METRICS},
            }
            for each in one.classes
        ],
    }
