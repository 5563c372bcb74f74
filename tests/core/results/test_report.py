"""Tables and reports of runs, parsed cell by cell."""

from __future__ import annotations

import re

import attrs
import pytest

from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import RunError
from sidetune_core.results.compare_runs import COMPARED, against, compare_runs
from sidetune_core.results.matrix import LONG, full_matrix, matrix_table
from sidetune_core.results.metrics import MAIN, MIXED, Results
from sidetune_core.results.report import SHOWN_GAPS, gap_lines, metrics_lines, one_line, run_report
from sidetune_core.results.run_summary import ChangedTensors, RunSummary
from sidetune_core.results.tables import Format

FORGOT = Results(
    tasks=("cats", "dogs", "birds"),
    rows=((0.75, None, None), (0.5, 0.875, None), (0.25, 0.75, 1.0)),
    initial=(0.125, 0.0625, 0.5),
    metric="accuracy",
    higher_is_better=True,
)
KEPT = attrs.evolve(FORGOT, rows=((0.75, None, None), (0.75, 0.875, None), (0.75, 0.875, 1.0)))
APART = Results(("normal", "class"), ((0.5, 2.0), (0.75, 1.25)), (1.0, 3.0), "loss", higher_is_better=False)
"""L1 and nats, which have no common mean. The loss of the first task grew by half of its best value."""
LOSSES = Results(
    ("depth", "edges"), ((0.25, None), (0.75, 12.34567)), (3.0, 20.0), "l1", higher_is_better=False
)


COUNT = LONG + 5
STREAM = Results(
    tuple(f"t{k}" for k in range(COUNT)),
    tuple(
        tuple(0.5 + (i - j) / 100 if j <= i else 0.125 if j == i + 1 else None for j in range(COUNT))
        for i in range(COUNT - 2)
    ),
    (0.25,) * COUNT,
    "accuracy",
    higher_is_better=True,
)
"""A long stream, two tasks of which are not trained yet."""


def summary_of(results: Results, name: str = "first") -> RunSummary:
    return RunSummary(
        name=name,
        spec=RunSpec(learner="sidetune", seed=3),
        spec_line="pets · resnet44 + fcn4 · mlp2 · sidetune · seed 0",
        results=results,
        changed=(
            ChangedTensors("cats", {"side": 12, "base": 0, "head": 2}, kept=270),
            ChangedTensors("dogs", {}, kept=284),
        ),
        parameters={"all": 1234567, "trainable per task": 89012},
        seconds=83.25,
        status="done",
        folder="runs/first",
    )


def cells(line: str) -> list[str]:
    """The cells of a line of Markdown, or of plain text with columns two blanks apart."""
    return (
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        if "|" in line
        else re.split(r" {2,}", line.strip())
    )


def row_of(text: str, label: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if cells(line)[0] == label)
    return cells(line)[1:]


GAPS = ("dogs, after training cats, split test: why", "dogs, after training dogs, split val: why")
DIVERGED = attrs.evolve(summary_of(FORGOT), status=f"diverged: {GAPS[0]}, and 1 more", gaps=GAPS)


def test_the_report_of_a_diverged_run_lists_its_gaps() -> None:
    report = run_report(DIVERGED)
    assert "Status: diverged, 3 of 3 tasks trained." in report
    assert "`·` was not measured, or is not finite." in report
    lines = report.partition("## Gaps\n\n")[2].splitlines()
    assert lines[0] == "Diverged; means over seeds and ranks leave this run out:"
    assert lines[2:4] == [f"- {gap}" for gap in GAPS]


def test_a_loss_that_diverged_is_the_reason_where_there_are_no_gaps() -> None:
    stopped = attrs.evolve(DIVERGED, status="diverged: the loss is nan at step 1", gaps=())
    assert gap_lines(stopped)[1:] == ["  the loss is nan at step 1"]


def test_the_first_gaps_are_listed_and_the_others_counted() -> None:
    many = attrs.evolve(DIVERGED, gaps=GAPS * 10)
    assert len(gap_lines(many)) == 1 + SHOWN_GAPS + 1
    assert gap_lines(many)[-1] == "  and 10 more, see not_finite in eval.jsonl"


def test_a_run_without_gaps_has_no_lines_about_them() -> None:
    assert gap_lines(summary_of(FORGOT)) == []


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_a_comparison_of_runs_says_why_one_has_diverged(form: Format) -> None:
    text = compare_runs([summary_of(FORGOT), DIVERGED], form)
    assert all(f"first: {gap}" in text for gap in GAPS)


def test_the_matrix_shows_percentages_row_by_row() -> None:
    assert [line.split() for line in matrix_table(FORGOT).splitlines()] == [
        ["accuracy", "%", "↑", "cats", "dogs", "birds", "mean"],
        ["untrained", "12.5", "6.2", "50.0"],
        ["cats", "75.0", "·", "·"],
        ["dogs", "50.0", "87.5", "·"],
        ["birds", "25.0", "75.0", "100.0", "66.7"],
    ]


def test_another_metric_is_shown_with_four_significant_digits() -> None:
    lines = matrix_table(LOSSES).splitlines()
    assert lines[0].split()[:2] == ["l1", "↓"]
    assert lines[-1].split() == ["edges", "0.75", "12.35", "6.548"]


def test_an_accuracy_outside_the_unit_interval_is_not_multiplied() -> None:
    percentages = attrs.evolve(LOSSES, metric="accuracy", higher_is_better=True)
    assert "12.35" in matrix_table(percentages)
    assert "%" not in matrix_table(percentages)


def test_the_matrix_of_an_unfinished_run_has_the_rows_trained_so_far() -> None:
    lines = matrix_table(attrs.evolve(FORGOT, rows=FORGOT.rows[:2])).splitlines()
    assert [line.split()[0] for line in lines] == ["accuracy", "untrained", "cats", "dogs"]
    assert lines[-1].split() == ["dogs", "50.0", "87.5", "·", "68.8"]  # the mean of the two trained tasks


def test_a_matrix_without_rows_shows_the_untrained_learner_only() -> None:
    assert matrix_table(attrs.evolve(FORGOT, rows=())).splitlines()[1].split() == [
        "untrained",
        "12.5",
        "6.2",
        "50.0",
    ]


def test_the_columns_of_a_matrix_are_aligned_with_their_headers() -> None:
    head, *_, last = matrix_table(FORGOT).splitlines()
    ends = [[match.end() for match in re.finditer(r"\S+", line)] for line in (head, last)]
    assert ends[0][-4:] == ends[1][-4:]


@pytest.mark.parametrize(
    "pattern", ["taskonomy/{}-of-a-long-name", "icifar-{}", "a_very_long_family_of_tasks_number{}", "t{}"]
)
@pytest.mark.parametrize(("metric", "value"), [("accuracy", 1.0), ("loss", 0.12345)])
def test_ten_tasks_fit_in_100_columns_and_stay_apart(pattern: str, metric: str, value: float) -> None:
    tasks = tuple(pattern.format(i) for i in range(10))
    lines = matrix_table(
        Results(tasks, ((value,) * 10,) * 10, (value,) * 10, metric, metric == "accuracy")
    ).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(set(lines[0].split()[-11:])) == 10 + 1
    assert len({line.split()[0] for line in lines[1:]}) == 11


def test_long_ids_lose_their_common_prefix() -> None:
    ids = ("icifar-classes-8", "icifar-classes-10", "icifar-classes-11")
    assert matrix_table(attrs.evolve(FORGOT, tasks=ids)).splitlines()[0].split()[3:] == [
        "8",
        "10",
        "11",
        "mean",
    ]


def test_a_line_of_metrics_names_value_meaning_and_convention() -> None:
    assert re.split(r" {3,}", metrics_lines(FORGOT)[0]) == [
        "average accuracy",
        "66.67 %",
        "mean of the last row (GEM 2017)",
    ]


def test_the_lines_of_metrics_hold_the_values_worked_out_by_hand() -> None:
    values = {name: value for name, value, _ in (re.split(r" {3,}", line) for line in metrics_lines(FORGOT))}
    assert values == {
        "average accuracy": "66.67 %",
        "average incremental accuracy": "70.14 %",  # (75 + 68.75 + 66.67) / 3
        "learning accuracy": "87.50 %",
        "forgetting": "31.25 %",  # (50 + 12.5) / 2
        "backward transfer": "-31.25 %",
    }


def test_metrics_of_a_loss_are_named_after_it_and_have_no_percent() -> None:
    lines = metrics_lines(LOSSES)
    assert [re.split(r" {3,}", line)[:2] for line in (lines[0], lines[3])] == [
        ["average l1", "6.548"],
        ["forgetting", "0.5"],
    ]


def test_results_of_different_units_are_listed_and_have_no_mean() -> None:
    assert [line.split() for line in matrix_table(APART).splitlines()] == [
        ["loss", "↓", "normal", "class"],
        ["untrained", "1", "3"],
        ["normal", "0.5", "2"],
        ["class", "0.75", "1.25"],
    ]
    ((name, value, meaning),) = (re.split(r" {3,}", line) for line in metrics_lines(APART))
    assert (name, value) == ("relative forgetting", "50.00 %")
    expected = "how much worse than the best row since training, as a fraction of it"
    assert meaning == f"{expected} (after Chaudhry 2018)"
    report = run_report(summary_of(APART))
    assert row_of(report, "loss ↓") == ["normal", "class"]
    assert row_of(report, "relative forgetting")[0] == "50.00 %"
    assert "average" not in report
    assert "mean" not in report


def test_tasks_of_different_metrics_have_no_mean_and_one_task_has() -> None:
    assert "mean" not in matrix_table(attrs.evolve(APART, metric=MIXED))
    alone = Results(("normal",), ((0.5,),), (1.0,), "loss", higher_is_better=False)
    assert matrix_table(alone).splitlines()[-1].split() == ["normal", "0.5", "0.5"]
    assert metrics_lines(alone)[0].startswith("average loss")


def test_one_line_has_the_average_or_the_result_of_each_task() -> None:
    assert one_line(FORGOT, percent=True) == "average accuracy 66.7 %"
    assert one_line(FORGOT, percent=False) == "average accuracy 0.6667"
    assert one_line(LOSSES, percent=False) == "average l1 6.548"
    assert one_line(APART, percent=False) == "loss normal 0.75, class 1.25"


def test_an_undefined_metric_is_a_dot() -> None:
    assert re.split(r" {3,}", metrics_lines(attrs.evolve(FORGOT, rows=FORGOT.rows[:1]))[3])[1] == "·"


def test_a_rounded_zero_has_no_sign() -> None:
    nearly = attrs.evolve(KEPT, rows=(*KEPT.rows[:2], (0.75 - 1e-9, 0.875, 1.0)))
    assert "-0.00" not in "\n".join(metrics_lines(nearly))


def test_a_report_holds_the_matrix_under_full_ids() -> None:
    report = run_report(summary_of(FORGOT))
    assert row_of(report, "accuracy % ↑") == ["cats", "dogs", "birds", "mean"]
    assert row_of(report, "birds") == ["25.0", "75.0", "100.0", "66.7"]


def test_a_report_names_the_convention_of_each_metric() -> None:
    value, definition = row_of(run_report(summary_of(FORGOT)), "forgetting")
    assert value == "31.25 %"
    assert definition.endswith("(Chaudhry 2018)")


def test_a_report_lists_changed_and_identical_tensors() -> None:
    tables = run_report(summary_of(FORGOT)).split("## Changed tensors")[1]
    assert row_of(tables, "cats") == ["side 12, head 2", "270"]
    assert row_of(tables, "dogs") == ["none", "284"]


def test_a_report_has_the_composition_and_the_cost_of_the_run() -> None:
    report = run_report(summary_of(FORGOT))
    heading, spec, status = report.split("\n\n")[:3]
    assert heading == "# first"
    assert spec == "pets · resnet44 + fcn4 · mlp2 · sidetune · seed 0 · task-incremental"
    assert status == "Status: done, 3 of 3 tasks trained. Folder: `runs/first`"
    assert row_of(report, "parameters, trainable per task") == ["89,012"]
    assert row_of(report, "time") == ["1 min 23 s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.42, "8.4 s"), (59.99, "1 min 00 s"), (3599.7, "1 h 00 min"), (7530, "2 h 05 min")],
)
def test_times_have_at_most_two_units(seconds: float, text: str) -> None:
    assert row_of(run_report(attrs.evolve(summary_of(KEPT), seconds=seconds)), "time") == [text]


def test_a_report_has_processor_time_and_peak_memory_if_they_were_measured() -> None:
    report = run_report(attrs.evolve(summary_of(KEPT), processor_seconds=61.0, peak_memory=3 * 2**30))
    assert row_of(report, "processor time") == ["1 min 01 s"]
    assert row_of(report, "peak memory") == ["3,072 MiB"]
    assert "peak memory" not in run_report(summary_of(KEPT))


def test_a_report_states_that_nothing_was_forgotten_if_every_column_is_constant() -> None:
    report = run_report(summary_of(KEPT))
    assert "\nNo forgetting was measured: every R[i][j], i >= j, is the same number bit for bit.\n" in report


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(FORGOT.rows, id="something was forgotten"),
        pytest.param((), id="nothing was trained"),
        pytest.param(KEPT.rows[:1], id="one row"),
        pytest.param(
            ((0.75, None, None), (None, 0.875, None), (None, None, 1.0)), id="old tasks were not measured"
        ),
    ],
)
def test_a_report_does_not_claim_what_was_not_measured(rows: tuple[tuple[float | None, ...], ...]) -> None:
    assert "No forgetting was measured" not in run_report(summary_of(attrs.evolve(FORGOT, rows=rows)))


def test_a_pipe_in_a_name_does_not_break_a_markdown_table() -> None:
    assert r"| a\|b |" in compare_runs([summary_of(KEPT, name="a|b")], "markdown")


def test_a_comparison_has_a_line_per_run() -> None:
    text = compare_runs([summary_of(FORGOT), summary_of(KEPT, name="second")])
    spec = "pets · resnet44 + fcn4 · mlp2 · sidetune · seed 0"
    assert row_of(text, "first") == [
        spec,
        "66.67 %",
        "87.50 %",
        "31.25 %",
        "-31.25 %",
        "89,012",
        "83.2",
        "done",
    ]
    assert row_of(text, "second") == [
        spec,
        "87.50 %",
        "87.50 %",
        "0.00 %",
        "0.00 %",
        "89,012",
        "83.2",
        "done",
    ]


def test_comparisons_in_text_and_markdown_have_the_same_cells() -> None:
    summaries = [summary_of(FORGOT), summary_of(KEPT, name="second")]
    assert row_of(compare_runs(summaries), "second") == row_of(compare_runs(summaries, "markdown"), "second")


def test_the_header_of_a_comparison_names_the_conventions() -> None:
    heading, _, header, *_ = compare_runs([summary_of(KEPT)], "markdown").splitlines()
    assert heading == "task-incremental"
    assert cells(header) == [
        "run",
        "composition",
        "average accuracy (GEM 2017)",
        "learning accuracy (MER 2019)",
        "forgetting (Chaudhry 2018)",
        "backward transfer (GEM 2017)",
        "trainable parameters per task",
        "seconds",
        "status",
    ]


def test_a_comparison_in_csv_has_plain_numbers_under_plain_names() -> None:
    head, line = (line.split(",") for line in compare_runs([summary_of(FORGOT)], "csv").splitlines())
    record = dict(zip(head, line, strict=True))
    assert (record["run"], record["seed"], record["forgetting"]) == ("first", "3", "0.3125")
    assert (record["parameters"], record["seconds"], record["tasks_trained"]) == ("1234567", "83.25", "3")


def test_a_reference_adds_intransigence_to_a_comparison_and_to_the_metrics_of_a_run() -> None:
    joint = summary_of(attrs.evolve(FORGOT, rows=((None,) * 3, (None,) * 3, (1.0, 1.0, 1.0))), name="joint")
    metric = against(joint)
    name, value, definition = re.split(r" {3,}", metrics_lines(FORGOT, (*MAIN, metric))[-1])
    assert (name, value) == ("intransigence", "12.50 %")  # the mean of 25, 12.5 and 0
    assert definition.endswith("(Chaudhry 2018, a* = last row of joint)")
    assert row_of(compare_runs([summary_of(FORGOT)], metrics=(*COMPARED, metric)), "first")[5] == "12.50 %"


def test_runs_on_tasks_of_different_units_have_a_second_table_of_each_task() -> None:
    kept = attrs.evolve(APART, rows=((0.5, 2.0), (0.5, 1.5)))
    unfinished = attrs.evolve(APART, rows=((0.5, None),))
    summaries = [
        summary_of(results, name)
        for results, name in ((APART, "lost"), (kept, "kept"), (unfinished, "begun"))
    ]
    _, first, second = compare_runs(summaries).split("\n\n")
    assert "average" not in first
    assert [row_of(first, name)[1] for name in ("lost", "kept", "begun")] == ["50.00 %", "0.00 %", "·"]
    assert row_of(second, "final loss") == ["lost", "kept", "begun"]
    assert row_of(second, "normal") == ["0.75", "0.5", "0.5"]
    assert row_of(second, "class") == ["1.25", "1.5", "·"]
    head, *_ = compare_runs(summaries, "csv").splitlines()
    assert "relative_forgetting" in head
    assert "average" not in head


def test_losses_are_compared_with_a_reference_as_fractions_of_it() -> None:
    metric = against(summary_of(attrs.evolve(APART, rows=((None, None), (0.25, 1.0))), name="joint"))
    *_, line = metrics_lines(APART, (*MAIN, metric))
    name, value, definition = re.split(r" {3,}", line)
    assert (name, value) == (
        "relative intransigence",
        "62.50 %",
    )  # the mean of 0.5 / 0.25 - 1 and 1.25 / 1 - 1
    assert definition.endswith("as a fraction of it (after Chaudhry 2018, a* = last row of joint)")


def test_a_reference_needs_a_complete_last_row() -> None:
    with pytest.raises(RunError, match="its last row of R has gaps"):
        against(summary_of(attrs.evolve(FORGOT, rows=FORGOT.rows[:2])))


def test_headers_of_several_lines_are_aligned_at_the_bottom() -> None:
    lowest = compare_runs([summary_of(KEPT)]).splitlines()[4]
    conventions = ["(GEM 2017)", "(MER 2019)", "(Chaudhry 2018)", "(GEM 2017)"]
    assert cells(lowest) == ["run", "composition", *conventions, "per task", "seconds", "status"]


def test_a_comparison_of_different_metrics_calls_none_an_accuracy() -> None:
    assert "accuracy" not in compare_runs([summary_of(FORGOT), summary_of(LOSSES)])


def test_a_comparison_has_the_progress_of_an_unfinished_run() -> None:
    running = attrs.evolve(summary_of(attrs.evolve(FORGOT, rows=FORGOT.rows[:2])), status="running")
    assert row_of(compare_runs([running]), "first")[-1] == "running, 2 of 3 tasks"


def test_of_a_long_stream_each_task_has_a_line() -> None:
    lines = [cells(line) for line in matrix_table(STREAM).splitlines()]
    assert lines[0] == ["accuracy % ↑", "untrained", "after its training", "after t27"]
    assert lines[1] == ["t0", "25.0", "50.0", "77.0"]
    assert lines[28:31] == [
        ["t27", "25.0", "50.0", "50.0"],
        ["t28", "25.0", "·", "12.5"],
        ["t29", "25.0", "·", "·"],
    ]
    assert lines[31] == ["mean", "25.0", "50.0", "63.5"]
    assert lines[32] == [
        "R of 30 tasks is shown by its diagonal and its first and last rows. All rows: sidetune report RUN "
        "--full"
    ]
    report = run_report(summary_of(STREAM))
    assert "| t27 | 25.0 | 50.0 | 50.0 |" in report
    assert "Accuracy on each task. R of 30 tasks is shown by its diagonal" in report


def test_all_of_a_long_r_is_printed_on_request() -> None:
    lines = full_matrix(STREAM, "text").splitlines()
    assert [len(cells(line)) for line in (lines[0], lines[-1])] == [COUNT + 2, COUNT + 2]
    rows = [line.split(",") for line in full_matrix(STREAM, "csv").splitlines()]
    assert rows[0] == ["accuracy", *STREAM.tasks]
    assert rows[1][:2] == ["untrained", "0.25"]
    assert rows[3][:4] == ["t1", repr(0.5 + 1 / 100), "0.5", "0.125"]
    assert rows[3][4] == ""
