"""The summary of the ledger's tables, and the plot of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidetune_core.cli import main
from sidetune_core.config.spec import RunSpec
from sidetune_core.ledger import claims
from sidetune_core.ledger.summary import summarize


def claim(folder: Path, name: str, method: str, column: str, weights: int, accuracies: list[float]) -> None:
    """A claim with a record: one task, of which each seed has one accuracy."""
    command = f"sidetune-run --env digits --learner {name}"
    (folder / f"{name}.toml").write_text(
        f'table = "small"\nmethod = "{method}"\nsummary = "{column}"\ncommand = "{command}"\n'
        f"seeds = {[*range(len(accuracies))]}\ntolerance = 0.01\n"
    )
    runs = [
        {
            "seed": seed,
            "results": {
                "tasks": ["t0"],
                "rows": [[accuracy]],
                "initial": [0.1],
                "metric": "accuracy",
                "higher_is_better": True,
            },
            "parameters": {"trainable per task": weights, "all": weights},
        }
        for seed, accuracy in enumerate(accuracies)
    ]
    record = {"command": command, "spec": RunSpec(env="digits", learner=name).to_json(), "runs": runs}
    (folder / "recorded").mkdir(exist_ok=True)
    (folder / "recorded" / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    folder.mkdir()
    claim(folder, "sidetune", "side-tuning, fork", "side-tuning", 200, [0.8, 0.9, 0.85])
    claim(folder, "independent", "independent networks", "independent networks", 800, [0.86, 0.88])
    claim(folder, "ewc", "EWC", "", 800, [0.5])
    return folder


def test_a_row_has_side_tuning_the_baselines_and_the_number_of_seeds_below_three(ledger: Path) -> None:
    entries = [claims.read_entry(ledger, name) for name in claims.names(ledger)]
    heading, _, row = summarize({"small": entries}, "markdown").splitlines()
    assert heading == "| table | metric | side-tuning | independent networks | weights per task |"
    # the half-width of the interval is 4.303 * 0.05 / sqrt(3)
    assert row == "| small | accuracy % | 85.00 ± 12.42 | 86.00, 88.00 (2 seeds) | 25 % |"


def test_the_plot_names_the_methods_of_the_summary_and_those_that_excel(ledger: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "costs.svg"
    assert main.main(["ledger", "small", "--ledger", str(ledger), "--figure", str(figure)]) == 0
    drawn = figure.read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("fork", "independent networks"))
    assert "<!-- EWC -->" not in drawn


def test_a_plot_needs_the_name_of_a_table(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ledger", "--ledger", str(ledger), "--figure", "costs.png"]) == 2
    assert "name it, such as 'small'" in capsys.readouterr().err
