"""What is printed at 80 and 120 columns and into a pipe, as text files; ``python FILE`` writes them again.

Look at the files when they change: they are what a user sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from sidetune_core.cli.main import main
from sidetune_core.config.spec import RunSpec
from sidetune_core.results.compare_methods import compare_methods
from sidetune_core.results.compare_runs import compare_runs
from sidetune_core.results.grouping import group_runs
from sidetune_core.results.metrics import Results
from sidetune_core.results.report import changed_lines, results_lines
from sidetune_core.results.run_summary import TRAINABLE, ChangedTensors, RunSummary
from sidetune_core.results.screen import Screen, wrapped

SCREENS = Path(__file__).parent / "screens"
WIDTHS: Mapping[str, int | None] = {"80": 80, "120": 120, "pipe": None}


UNCHANGED = (
    "36 of 45 values of earlier tasks in R are those of the row before, because nothing that these tasks read"
    " had changed; the others were measured"
)


def _results(tasks: int, lost: float) -> Results:
    rows = tuple(
        tuple(max(0.5, 0.98 - 0.002 * j - lost * (i - j)) if j <= i else None for j in range(tasks))
        for i in range(tasks)
    )
    names = tuple(f"t{index}" for index in range(tasks))
    return Results(names, rows, (0.5,) * tasks, "accuracy", higher_is_better=True)


def _summary(learner: str, lost: float, seed: int = 0, tasks: int = 10) -> RunSummary:
    results = _results(tasks, lost + seed / 1000 if lost else 0.0)
    return RunSummary(
        name=f"icifar-{learner}-20261130-1{seed}1500",
        spec=RunSpec(
            base="sidetune/resnet44", learner=f"sidetune/{learner}", env="sidetune/icifar", seed=seed
        ),
        spec_line=f"icifar · resnet44 · {learner} · seed {seed}",
        results=results,
        changed=tuple(ChangedTensors(task, {"sides": 10, "heads": 2}, 310) for task in results.tasks),
        parameters={TRAINABLE: 26_035, "all": 788_111},
        seconds=71.25,
        status="done",
        folder=f"runs/{learner}-{seed}",
        unchanged=UNCHANGED if tasks > 1 else "",
    )


RUNS = [_summary("sidetune", 0.0), _summary("ewc", 0.02), _summary("finetune", 0.05)]
SEEDS = [_summary(name, lost, seed) for name, lost in (("sidetune", 0.0), ("ewc", 0.02)) for seed in range(3)]


def _run(summary: RunSummary, screen: Screen) -> str:
    lines = wrapped(changed_lines(summary), screen)
    return f"{results_lines(summary.results, screen)}\n\n{lines}"


SHOWN: Mapping[str, Callable[[Screen], str]] = {
    "run": lambda screen: _run(RUNS[0], screen),
    "run-forgetting": lambda screen: _run(RUNS[2], screen),
    "run-of-one-task": lambda screen: _run(_summary("features", 0.0, tasks=1), screen),
    "comparison": lambda screen: compare_runs(RUNS, screen=screen),
    "methods": lambda screen: compare_methods(group_runs(SEEDS), screen=screen),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_a_screen_is_as_it_was_looked_at_and_fits(name: str, width: str) -> None:
    text = SHOWN[name](Screen(WIDTHS[width], long=False))
    assert text + "\n" == (SCREENS / f"{name}-{width}.txt").read_text(encoding="utf-8")
    columns = WIDTHS[width]
    assert columns is None or max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text


def test_the_overview_of_commands_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def _write(names: Sequence[str] = tuple(SHOWN)) -> None:
    SCREENS.mkdir(exist_ok=True)
    for name in names:
        for width, columns in WIDTHS.items():
            text = SHOWN[name](Screen(columns, long=False))
            (SCREENS / f"{name}-{width}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
