"""The table of methods, parsed cell by cell, and plots of methods."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import attrs
import pytest
from PIL import Image

from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import SidetuneError
from sidetune_core.results.compare_methods import compare_methods, estimate
from sidetune_core.results.compare_runs import COMPARED, against
from sidetune_core.results.figures import (
    curves_of,
    draw_by_scenario,
    draw_curves,
    draw_methods,
    draw_pictures,
)
from sidetune_core.results.grouping import group_runs
from sidetune_core.results.metrics import MAIN, Results, Row
from sidetune_core.results.run_summary import RunSummary


def results_of(*rows: Row) -> Results:
    return Results(("t0", "t1"), rows, (0.25, 0.25), "accuracy", higher_is_better=True)


def run_of(learner: str, seed: int, first: float, last: float, second: float) -> RunSummary:
    """Task t0 has `first` right after its training and `last` at the end, t1 has `second`."""
    return RunSummary(
        name=f"{learner}-{seed}",
        spec=RunSpec(learner=learner, env="pets", seed=seed),
        spec_line=f"pets · {learner} · seed {seed}",
        results=results_of((first, None), (last, second)),
        changed=(),
        parameters={"all": 1234567, "trainable per task": 89012},
        seconds=10.0 + seed,
        status="done",
        folder=f"runs/{learner}-{seed}",
    )


KEPT = [run_of("kept", seed, first, first, 0.75) for seed, first in enumerate((0.5, 0.75, 0.625))]
LOST = [run_of("lost", seed, 1.0, last, 1.0) for seed, last in enumerate((0.5, 0.25, 0.375))]
JOINT = attrs.evolve(run_of("joint", 0, 0.0, 0.0, 0.0), results=results_of((None, None), (1.0, 0.875)))


def table(runs: list[RunSummary]) -> dict[str, list[str]]:
    """The cells of the text, by method."""
    text = compare_methods(group_runs(runs)).split("\n\n")[1]
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in text.splitlines())}


def records(runs: list[RunSummary]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(compare_methods(group_runs(runs), "csv"))))


def test_a_line_has_mean_and_half_width_of_each_metric_the_ranks_and_the_costs() -> None:
    # t with two degrees of freedom is 4.3027, and s of three equidistant values is their distance. Three
    # seeds: kept: ACC 62.5, 75, 68.75; LA the same. lost: ACC 75, 62.5, 68.75; LA 100; F 50, 75, 62.5.
    # Ranks: t0 1 and 2, t1 2 and 1.
    lines = table(KEPT + LOST)
    costs = ["89,012", "1,234,567", "11.0"]
    assert lines["kept"] == [
        "3",
        "68.75 ± 15.53",
        "68.75 ± 15.53",
        "0.00 ± 0.00",
        "0.00 ± 0.00",
        "1.50",
        *costs,
    ]
    assert lines["lost"] == [
        "3",
        "68.75 ± 15.53",
        "100.00 ± 0.00",
        "62.50 ± 31.05",
        "-62.50 ± 31.05",
        "1.50",
        *costs,
    ]


def test_fewer_than_three_seeds_have_no_interval() -> None:
    assert table([KEPT[0], LOST[0]])["lost"][:4] == ["1", "75.00", "100.00", "50.00"]
    assert "±" not in compare_methods(group_runs([KEPT[0], LOST[0]]))


def test_two_seeds_are_both_printed_and_have_no_mean() -> None:
    assert table([*KEPT[:2], *LOST[:2]])["lost"][:3] == ["2", "75.00, 62.50", "100.00, 100.00"]
    assert "±" not in compare_methods(group_runs([*KEPT[:2], *LOST[:2]]))


def test_a_note_says_why_two_seeds_have_no_interval() -> None:
    some = compare_methods(group_runs([*KEPT, *LOST[:2]]))
    assert "± is the half-width of the 95 % confidence interval (t) over seeds, from 3 seeds on; " in some
    none = compare_methods(group_runs([KEPT[0], *LOST[:2]]))
    assert "No confidence intervals over seeds: they need 3 seeds." in none


def test_a_metric_that_one_seed_lacks_is_undefined() -> None:
    gap = attrs.evolve(KEPT[1], results=results_of((None, None), (0.75, 0.75)))
    (method,) = group_runs([KEPT[0], gap])
    learning = next(metric for metric in MAIN if metric.symbol == "LA")
    assert estimate(method, learning).mean is None


DIVERGED = attrs.evolve(
    KEPT[2], results=results_of((None, None), (0.625, 0.0)), status="diverged: t0, after training t0: why"
)


def test_means_leave_out_a_seed_that_has_diverged_and_say_so() -> None:
    runs = [*KEPT[:2], DIVERGED, *LOST[:2]]
    assert table(runs)["kept"][:3] == ["2 of 3", "62.50, 75.00", "62.50, 75.00"]
    note = "Left out of means and ranks: kept-2 (kept, seed 2), diverged: t0, after training t0: why"
    assert note in compare_methods(group_runs(runs)).splitlines()


def test_ranks_leave_out_a_seed_that_has_diverged() -> None:
    lines = table([KEPT[0], DIVERGED, LOST[0]])  # t0 alike, t1 0.75 and 1
    assert (lines["kept"][5], lines["lost"][5]) == ("1.75", "1.25")


def test_a_method_whose_seeds_have_all_diverged_has_gaps_and_no_rank() -> None:
    alone = attrs.evolve(DIVERGED, spec=attrs.evolve(DIVERGED.spec, learner="alone"))
    lines = table([*KEPT, *LOST, alone])
    assert lines["alone"] == ["0 of 1", *["·"] * 5, "89,012", "1,234,567", "·"]
    assert lines["kept"][5] == "1.50"


def test_csv_counts_the_seeds_that_have_diverged() -> None:
    (record,) = records([*KEPT[:2], DIVERGED])
    assert (record["seeds"], record["diverged_seeds"], record["average_accuracy"]) == ("2", "1", "0.6875")


def test_the_best_rank_comes_first() -> None:
    best = run_of("zenith", 0, 1.0, 1.0, 1.0)
    assert [record["method"] for record in records([KEPT[0], best])] == ["zenith", "kept"]


def test_losses_of_several_tasks_are_ranked_and_listed_and_never_averaged() -> None:
    def of_losses(run: RunSummary) -> RunSummary:
        return attrs.evolve(run, results=attrs.evolve(run.results, metric="loss", higher_is_better=False))

    # t0: 0.5 and 1 right after training, 0.5 and 1.5 at the end, half as much again; t1: 4 and 2
    kept, lost = (
        of_losses(run) for run in (run_of("kept", 0, 0.5, 0.5, 4.0), run_of("lost", 0, 1.0, 1.5, 2.0))
    )
    text = compare_methods(group_runs([kept, lost]))
    assert "average loss" not in re.sub(r"\s+", " ", text)
    lines = table([kept, lost])
    assert lines["kept"][:3] == ["1", "0.00", "1.50"]
    assert lines["lost"][:3] == ["1", "50.00", "1.50"]
    by_task = [re.split(r" {2,}", line.strip()) for line in text.split("\n\n")[2].splitlines()]
    assert [by_task[0], *by_task[-2:]] == [
        ["final loss", "kept", "lost"],
        ["t0", "0.5", "1.5"],
        ["t1", "4", "2"],
    ]
    assert [record["relative_forgetting"] for record in records([kept, lost])] == ["0.0", "0.5"]


def test_a_plot_of_losses_of_several_tasks_has_a_scale_for_each_and_no_mean(tmp_path: Path) -> None:
    losses = [
        attrs.evolve(run, results=attrs.evolve(run.results, metric="loss", higher_is_better=False))
        for run in (*KEPT, *LOST)
    ]
    draw_methods(group_runs(losses), tmp_path / "losses.svg")
    drawn = (tmp_path / "losses.svg").read_text()
    assert "mean over tasks" not in drawn
    assert {"t0", "t1"} <= set(re.findall(r"<!-- (\w+) -->", drawn))


def test_methods_on_other_tasks_are_compared_without_ranks() -> None:
    other = attrs.evolve(LOST[0], results=attrs.evolve(LOST[0].results, tasks=("t0", "t7")))
    text = compare_methods(group_runs([KEPT[0], other]))
    assert "No ranks" in text
    assert "rank\n" not in text
    assert records([KEPT[0], other])[0]["average_rank"] == ""


def test_methods_on_one_task_have_one_metric_best_first_and_no_ranks() -> None:
    single = Results(("t0",), ((0.5,),), (0.25,), "accuracy", higher_is_better=True)
    better = attrs.evolve(single, rows=((0.75,),))
    runs = [attrs.evolve(KEPT[0], results=single), attrs.evolve(LOST[0], results=better)]
    lines = table(runs)
    assert list(lines)[-2:] == ["lost", "kept"]
    assert lines["lost"][:3] == ["1", "75.00", "89,012"]
    assert "anks" not in compare_methods(group_runs(runs))


def test_three_methods_have_friedmans_test_and_the_critical_difference() -> None:
    # Ranks 1, 2, 3 on both tasks: chi² = N (k - 1) = 4 and p = 1/6, by chi² exp(-2);
    # CD = 2.3437 sqrt(3 * 4 / (6 * 2)).
    runs = [
        run_of("a", 0, 0.5, 0.5, 0.5),
        run_of("b", 0, 0.25, 0.25, 0.25),
        run_of("c", 0, 0.125, 0.125, 0.125),
    ]
    text = compare_methods(group_runs(runs))
    assert "Friedman chi² = 4.00, permutation test p = 0.17 (exact); for many tasks: chi² p = 0.14" in text
    assert "Iman-Davenport F = ∞, without a p-value." in text
    assert "closer than CD = 2.34 do not differ significantly (Nemenyi, α = 0.05)" in text


def test_the_time_can_be_left_out() -> None:
    with_time, without = (compare_methods(group_runs(KEPT + LOST), seconds=shown) for shown in (True, False))
    assert "seconds" in with_time
    assert "seconds" not in without
    assert "1,234,567\n" in without


def test_csv_has_plain_numbers_under_plain_names() -> None:
    (kept,) = (record for record in records(KEPT + LOST) if record["method"] == "kept")
    assert (kept["seeds"], kept["metric"], kept["parameters"]) == ("3", "accuracy", "1234567")
    assert float(kept["average_accuracy"]) == 0.6875
    assert float(kept["average_accuracy_half_width"]) == pytest.approx(4.30265 * 0.0625 / 3**0.5, abs=1e-5)


def test_latex_carries_the_notes_as_comments() -> None:
    notes, begin, _ = compare_methods(group_runs(KEPT + LOST), "latex").partition(r"\begin{tabular}")
    assert begin
    assert notes.splitlines()[0] == "% pets · task-incremental · 2 tasks"
    assert all(line.startswith("% ") for line in notes.splitlines())


def test_a_reference_adds_intransigence_and_names_itself() -> None:
    metrics = (*COMPARED, against(JOINT))
    (record,) = csv.DictReader(io.StringIO(compare_methods(group_runs(KEPT), "csv", metrics)))
    assert float(record["intransigence"]) == pytest.approx(
        0.25
    )  # the mean of (0.5 + 0.125) / 2 and (0.25 + 0.125) / 2
    assert "a* = last row of joint-0)" in compare_methods(group_runs(KEPT), "text", metrics)


def test_a_plot_of_methods_has_a_panel_for_each_task_and_a_line_for_each_method(tmp_path: Path) -> None:
    draw_methods(group_runs([*KEPT, *LOST, JOINT]), tmp_path / "grid.svg")
    drawn = (tmp_path / "grid.svg").read_text()
    for label in ("mean over tasks so far", "t0", "t1", "kept", "lost", "joint"):
        assert f"<!-- {label} -->" in drawn


def test_methods_of_several_scenarios_are_drawn_to_a_file_for_each(tmp_path: Path) -> None:
    lost = [attrs.evolve(run, spec=attrs.evolve(run.spec, scenario="class")) for run in LOST]
    out = tmp_path / "grid.svg"
    files = draw_by_scenario(group_runs([*KEPT, *lost]), out, draw_methods)
    assert [file.name for file in files] == ["grid-task-incremental.svg", "grid-class-incremental.svg"]
    for file, others in zip(files, ("class-incremental", "task-incremental"), strict=True):
        drawn = file.read_text()
        assert f"pets · {file.stem.removeprefix('grid-')} · 2 tasks" in drawn
        assert others not in drawn
    assert draw_by_scenario(group_runs(lost), out, draw_methods) == [out]


def test_a_plot_of_methods_on_different_tasks_is_refused(tmp_path: Path) -> None:
    other = attrs.evolve(LOST[0], results=attrs.evolve(LOST[0].results, tasks=("t0", "t7")))
    with pytest.raises(SidetuneError, match="same env, data, tasks and metric"):
        draw_methods(group_runs([*KEPT, other]), tmp_path / "grid.svg")


def with_curve(run: RunSummary, folder: Path, *losses: float) -> RunSummary:
    """The run in a folder with a training curve of task t0, every second step."""
    path = folder / run.name
    path.mkdir()
    (path / "run.json").write_text("{}")
    lines = [{"task": "t0", "step": 2 * index, "mean_loss": loss} for index, loss in enumerate(losses, 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return attrs.evolve(run, folder=str(path))


def test_a_curve_has_mean_and_interval_at_the_steps_that_all_seeds_have(tmp_path: Path) -> None:
    curves = [(1.0, 0.5, 0.25), (3.0, 0.5), (2.0, 0.5)]
    (method,) = group_runs(with_curve(run, tmp_path, *curve) for run, curve in zip(KEPT, curves, strict=True))
    half = 4.30265 / 3**0.5  # the 97.5 % quantile of t with two degrees of freedom, times the standard error
    assert curves_of(method, "mean_loss") == {"t0": [(2, 2.0, pytest.approx(half, rel=1e-4)), (4, 0.5, 0.0)]}
    with pytest.raises(SidetuneError, match="kept-0 has no curve 'return'; known: mean_loss"):
        curves_of(method, "return")


def test_a_curve_without_finite_values_is_told_from_one_that_does_not_exist(tmp_path: Path) -> None:
    (method,) = group_runs([with_curve(KEPT[0], tmp_path, math.nan)])
    with pytest.raises(SidetuneError, match="the curve 'mean_loss' of .*kept-0 has no finite value"):
        curves_of(method, "mean_loss")


def test_means_that_are_too_large_are_undefined() -> None:
    (method,) = group_runs([run_of("kept", seed, 0.5, 1e308, 0.5) for seed in range(3)])
    assert estimate(method, MAIN[0]).mean == 5e307
    large = [attrs.evolve(run, other_metrics={"loss": 1e308}) for run in method.runs]
    assert "1e308" not in compare_methods(group_runs(large), further=["loss"])


def test_curves_have_a_panel_for_each_task_and_a_line_for_each_method(tmp_path: Path) -> None:
    methods = group_runs([with_curve(run, tmp_path, 1.0, 0.5) for run in (KEPT[0], LOST[0], JOINT)])
    draw_curves(methods, tmp_path / "curves.svg", "mean_loss")
    drawn = (tmp_path / "curves.svg").read_text()
    for label in ("mean_loss in training", "t0", "kept", "lost", "joint"):
        assert f"<!-- {label} -->" in drawn
    other = attrs.evolve(LOST[0], results=attrs.evolve(LOST[0].results, tasks=("t0", "t7")))
    with pytest.raises(SidetuneError, match="curves of several methods need the same tasks"):
        draw_curves(group_runs([*KEPT, other]), tmp_path / "curves.svg", "mean_loss")


def with_images(run: RunSummary, folder: Path, **levels: int) -> RunSummary:
    """The run in a folder with a gray image of task t0 for each name."""
    path = folder / run.name / "pictures"
    path.mkdir(parents=True)
    for name, gray in levels.items():
        Image.new("RGB", (8, 4), (gray, gray, gray)).save(path / f"t0.{name}.png")
    return attrs.evolve(run, folder=str(path.parent))


def test_images_that_all_methods_share_are_plotted_once(tmp_path: Path) -> None:
    kept = with_images(KEPT[0], tmp_path, input=9, prediction=20, error=1)
    runs = [kept, with_images(LOST[0], tmp_path, input=9, prediction=8, error=2)]
    draw_pictures(group_runs(runs), tmp_path / "pictures.svg", "t0")
    drawn = re.findall(r"<!-- (.*?) -->", (tmp_path / "pictures.svg").read_text())
    labels = ["input", "kept", "prediction", "kept", "error", "lost", "prediction", "lost", "error"]
    assert [label for label in drawn if "·" not in label] == labels
    with pytest.raises(SidetuneError, match="has no images of task 't1'; it has images of t0"):
        draw_pictures(group_runs(runs), tmp_path / "pictures.svg", "t1")
    with pytest.raises(SidetuneError, match="has no images of task 't0'; it has no images at all"):
        draw_pictures(group_runs([JOINT]), tmp_path / "pictures.svg", "t0")


def test_a_second_table_has_the_memory_budget_and_csv_its_bytes() -> None:
    stored = {"weights": 2**20, "exemplars": 2**19, "statistics": 0}
    runs = [attrs.evolve(run, stored=stored, processor_seconds=7.0, energy=None) for run in KEPT]
    text = compare_methods(group_runs([*runs, *LOST]))
    lines = {cells[0]: cells[1:] for cells in map(str.split, text.split("\n\n")[2].splitlines()[3:])}
    assert lines["kept"] == ["1.000", "0.500", "0.000", "1.500", "89,012", "7"]
    assert lines["lost"] == ["·", "·", "·", "·", "89,012", "·"]
    record = next(record for record in records([*runs, *LOST]) if record["method"] == "kept")
    assert (record["weights_bytes"], record["statistics_bytes"], record["joules"]) == ("1048576.0", "0.0", "")
