"""The ledger: claims, records, verdicts, and the tables in the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import attrs
import pytest

from sidetune_core.cli import main
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import LedgerError, PluginError
from sidetune_core.ledger import claims, reproduce
from sidetune_core.ledger.summary import summarize
from sidetune_core.results.metrics import Results
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.training import run as training_run

ROOT = Path(__file__).parents[3]
COMMAND = (
    "sidetune-run --env digits --env.num-tasks 2 --base resnet20 --base.weights none --learner features "
    "--train.steps 2"
)
CLAIM = f'table = "small"\nmethod = "features"\ncommand = "{COMMAND}"\nseeds = [0, 1]\ntolerance = 0.01\n'
PUBLISHED = '\n[[published]]\nvalue = {value}\nsource = "a paper"\n'
COMMITTED = {"commit": "c0ffee", "changed": False}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    folder.mkdir()
    (folder / "small.toml").write_text(CLAIM)
    return folder


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "git_state", lambda: COMMITTED)


@pytest.fixture
def sidetune(book: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``sidetune COMMAND …`` on the ledger; returns exit status, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main.main([*map(str, arguments), "--ledger", str(book)])
        return status, *capsys.readouterr()

    return run


def summary(seed: int, accuracy: float) -> RunSummary:
    results = Results(
        ("a", "b"), ((accuracy, None), (accuracy, accuracy)), (0.5, 0.5), "accuracy", higher_is_better=True
    )
    return RunSummary(
        "x",
        RunSpec(learner="features", env="digits", seed=seed),
        "x",
        results,
        (),
        {"all": 10},
        1.0,
        "done",
        "x",
    )


def record(book: Path, name: str, *accuracies: float) -> claims.Entry:
    """The entry after a record of runs with these accuracies."""
    runs = [summary(seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    about = {"git": COMMITTED, "machine": "cpu", "threads": 1, "versions": {}}
    claims.write_record(
        book,
        claims.read_entry(book, name),
        RunSpec(learner="features", env="digits"),
        runs,
        [about] * len(runs),
    )
    return claims.read_entry(book, name)


def test_losses_of_several_tasks_are_compared_with_the_recorded_ones_one_by_one(book: Path) -> None:
    def losses(first: float, second: float) -> RunSummary:
        results = Results(
            ("a", "b"), ((9.0, None), (first, second)), (9.0, 9.0), "loss", higher_is_better=False
        )
        return RunSummary("x", RunSpec(seed=0), "x", results, (), {}, 1.0, "done", "x")

    entry = claims.Entry("small", claims.read_entry(book, "small").claim, (losses(0.01, 2.0),))
    near, far = (claims.verdicts(entry, [losses(*row)])[0] for row in ((0.01005, 2.01), (0.02, 2.0)))
    assert (near.holds, far.holds) == (True, False)
    assert near.text == "losses differ by 0.0050 of the recorded ones on average (± 0.01)"
    assert claims.verdicts(claims.Entry("small", entry.claim, ()), [losses(1.0, 1.0)]) == []


DIVERGED = attrs.evolve(summary(1, 0.5), status="diverged: b, after training b, split test: why")


def test_a_run_that_has_diverged_is_not_recorded(book: Path) -> None:
    about = {"git": COMMITTED, "machine": "cpu", "threads": 1, "versions": {}}
    entry, spec = claims.read_entry(book, "small"), RunSpec(learner="features", env="digits")
    with pytest.raises(
        LedgerError, match="takes no run that has diverged; x has diverged: b, after training b"
    ):
        claims.write_record(book, entry, spec, [summary(0, 0.5), DIVERGED], [about] * 2)
    assert not (book / "recorded").exists()


def test_a_claim_with_a_run_that_has_diverged_does_not_hold(
    sidetune: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [reproduce.Run(summary(0, 0.5), {}), reproduce.Run(DIVERGED, {})]
    monkeypatch.setattr(reproduce, "carry_out", lambda *_: runs)
    status, out, _ = sidetune("reproduce", "small")
    assert (status, out) == (1, "does not hold: a run has diverged\n")


# Running a claim


@pytest.mark.usefixtures("committed")
def test_a_claim_is_run_recorded_and_holds_on_repetition(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, tmp_path: Path
) -> None:
    status, out, _ = sidetune("reproduce", "small", "--record", "--quiet", "--out", tmp_path / "first")
    assert status == 0
    assert "no reference value yet" in out
    entry = claims.read_entry(book, "small")
    assert [run.spec.seed for run in entry.runs] == [0, 1]
    assert entry.recorded is not None
    assert (
        entry.recorded
        == entry.runs[0].other_metrics["accuracy"] / 2 + entry.runs[1].other_metrics["accuracy"] / 2
    )
    assert all(
        2**20 < (run.peak_memory or 0) < 2**40 and (run.processor_seconds or 0) > 0 for run in entry.runs
    )
    assert (
        f"{entry.recorded:.4f}"
        in f"{sum(float(line.split()[4][:-1]) for line in out.splitlines()[:2]) / 2:.4f}"
    )

    status, out, _ = sidetune("reproduce", "small", "--quiet", "--out", tmp_path / "second")
    assert status == 0
    assert f"holds: {entry.recorded:.4f} vs. {entry.recorded:.4f} ± 0.01 (recorded)" in out

    status, out, _ = sidetune("ledger")
    assert status == 0
    assert "features" in out
    last = [fmean(run.results.rows[-1]) for run in entry.runs]  # type: ignore[type-var]
    assert ", ".join(f"{100 * accuracy:.2f}" for accuracy in last) in out


@pytest.mark.usefixtures("committed")
def test_finished_runs_are_reused_and_unfinished_ones_are_resumed(
    sidetune: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidetune("reproduce", "small", "--quiet", "--out", tmp_path)
    status = tmp_path / "small" / "seed-1" / "status"
    status.write_text("interrupted\n")
    monkeypatch.setattr(training_run, "run", None)
    resumed = []
    monkeypatch.setattr("sidetune_core.training.resume.resume", lambda path, quiet, **_: resumed.append(path))
    assert sidetune("reproduce", "small", "--quiet", "--out", tmp_path)[0] == 0
    assert resumed == [tmp_path / "small" / "seed-1"]


def test_runs_of_uncommitted_code_are_not_recorded(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "git_state", lambda: {"commit": "c0ffee", "changed": True})
    status, _, errors = sidetune("reproduce", "small", "--record", "--quiet", "--out", tmp_path)
    assert status == 2
    assert "made by uncommitted code" in errors
    assert not (book / "recorded").exists()


@pytest.mark.usefixtures("committed")
def test_a_claim_with_another_result_does_not_hold(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, tmp_path: Path
) -> None:
    record(book, "small", 0.0, 0.0)
    status, out, _ = sidetune("reproduce", "small", "--quiet", "--out", tmp_path)
    assert status == 1
    assert "does not hold" in out


@pytest.mark.parametrize(
    "assignment",
    ["env.num-tasks=1", "train.lr=1", "learner.norm=false", "side.weights=x.safetensors", "seed=1"],
)
def test_options_of_the_claim_cannot_be_set(
    sidetune: Callable[..., tuple[int, str, str]], tmp_path: Path, assignment: str
) -> None:
    status, _, errors = sidetune("reproduce", "small", assignment, "--out", tmp_path)
    assert status == 2
    assert f"'{assignment.split('=')[0]}' belongs to the claim" in errors
    assert not list(tmp_path.glob("small"))


@pytest.mark.usefixtures("committed")
def test_a_folder_with_another_run_is_refused(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, tmp_path: Path
) -> None:
    sidetune("reproduce", "small", "--quiet", "--out", tmp_path)
    (book / "small.toml").write_text(CLAIM.replace("--train.steps 2", "--train.steps 3"))
    status, _, errors = sidetune("reproduce", "small", "--quiet", "--out", tmp_path)
    assert status == 2
    assert "holds a run of another spec than the claim's" in errors


# Reading


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tolerance = 0.01", ""), "tolerance"),
        (("seeds = [0, 1]", 'seeds = "0"'), "seeds"),
        (("method =", "metod ="), "no option 'metod'. Did you mean 'method'"),
        (("[0, 1]", "[0, 1"), "cannot read the claim"),
    ],
)
def test_a_damaged_claim_is_named(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, change: tuple[str, str], message: str
) -> None:
    (book / "small.toml").write_text(CLAIM.replace(*change))
    status, _, errors = sidetune("ledger")
    assert status == 2
    assert "small.toml" in errors
    assert message in errors


@pytest.mark.parametrize(
    "command", ["python x.py", "sidetune-run --seed 1", "sidetune-run --out x", "sidetune-run --spec x.json"]
)
def test_a_command_that_cannot_be_a_claim_is_refused(
    sidetune: Callable[..., tuple[int, str, str]], book: Path, command: str
) -> None:
    (book / "small.toml").write_text(CLAIM.replace(COMMAND, command))
    status, _, errors = sidetune("reproduce", "small")
    assert status == 2
    assert "a claim's command is sidetune-run with components and their options only" in errors


def test_an_unknown_claim_is_answered_with_the_known_ones(
    sidetune: Callable[..., tuple[int, str, str]],
) -> None:
    status, _, errors = sidetune("reproduce", "smal")
    assert status == 2
    assert "no claim 'smal'" in errors
    assert "Did you mean 'small'?" in errors


def test_a_folder_without_claims_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="has no claims"):
        claims.names(tmp_path)


def test_a_record_of_another_command_is_refused(book: Path) -> None:
    record(book, "small", 0.5, 0.6)
    (book / "small.toml").write_text(CLAIM.replace("--train.steps 2", "--train.steps 3"))
    with pytest.raises(LedgerError, match="recorded with another command"):
        claims.read_entry(book, "small")


def test_a_claim_with_former_keys_is_read(book: Path) -> None:
    published = PUBLISHED.format(value=0.7)
    (book / "small.toml").write_text(f"{CLAIM}metrics = ['loss']\n{published}")
    entry = claims.read_entry(book, "small")
    former = published.replace("value", "figure")
    (book / "small.toml").write_text(f"{CLAIM}figures = ['loss']\n{former}")
    assert claims.read_entry(book, "small") == entry


def test_a_record_of_a_former_command_is_kept(book: Path) -> None:
    record(book, "small", 0.5, 0.6)
    respelled = CLAIM.replace("--train.steps 2", "--train.steps=2")
    (book / "small.toml").write_text(f"{respelled}former_commands = ['{COMMAND}']\n")
    entry = claims.read_entry(book, "small")
    assert entry.claim.command != COMMAND
    assert len(entry.runs) == 2


@pytest.mark.parametrize("damage", ["", "{}", '{"command": 1}', "[]"])
def test_a_damaged_record_is_named(book: Path, damage: str) -> None:
    record(book, "small", 0.5)
    (book / "recorded" / "small.json").write_text(damage)
    with pytest.raises(LedgerError, match=r"small\.json"):
        claims.read_entry(book, "small")


# Tables and verdicts


def test_a_published_value_with_a_tolerance_is_checked_and_one_without_is_not(book: Path) -> None:
    (book / "small.toml").write_text(
        CLAIM + PUBLISHED.format(value=0.7) + "tolerance = 0.025\n" + PUBLISHED.format(value=0.9)
    )
    entry = record(book, "small", 0.70, 0.74)
    assert [verdict.holds for verdict in claims.verdicts(entry, entry.runs)] == [True, True]
    assert [verdict.holds for verdict in claims.verdicts(entry, [summary(0, 0.728)])] == [True, False]
    text = claims.write_up([entry], "text")
    yes, other = (line for line in text.splitlines() if "a paper" in line)
    assert yes.split() == ["features", "72.00", "70.00", "2.50:", "yes", "a", "paper"]
    assert other.split() == ["features", "72.00", "90.00", "a", "paper"]


def test_a_record_has_the_cost_of_a_run_and_a_claim_names_more_metrics_for_its_table(book: Path) -> None:
    claim = book / "small.toml"
    claim.write_text(claim.read_text().replace("seeds =", 'metrics = ["loss"]\nseeds ='))
    run = attrs.evolve(
        summary(0, 0.5),
        processor_seconds=61.25,
        peak_memory=300 * 2**20,
        other_metrics={"accuracy": 0.5, "loss": 1.25},
    )
    about = {"git": COMMITTED, "machine": "cpu", "threads": 1, "versions": {}}
    claims.write_record(
        book, claims.read_entry(book, "small"), RunSpec(learner="features", env="digits"), [run], [about]
    )
    entry = claims.read_entry(book, "small")
    assert (entry.runs[0].seconds, entry.runs[0].processor_seconds, entry.runs[0].peak_memory) == (
        1.0,
        61.25,
        300 * 2**20,
    )
    (line,) = [line for line in claims.write_up([entry], "text").splitlines() if "50.00" in line]
    assert line.split()[-5:] == ["1.25", "·", "10", "61", "300"]


def test_claims_without_a_record_are_listed(book: Path) -> None:
    assert claims.write_up([claims.read_entry(book, "small")], "text") == "No recorded runs: features."


def test_a_note_of_several_methods_is_printed_once(book: Path) -> None:
    entry = claims.read_entry(book, "small")
    entries = [
        attrs.evolve(entry, claim=attrs.evolve(entry.claim, method=name, note="few images")) for name in "abc"
    ]
    assert claims.write_up(entries, "text").startswith("few images\n\nNo rec")
    entries[1] = attrs.evolve(entries[1], claim=attrs.evolve(entries[1].claim, note="many"))
    assert claims.write_up(entries, "text").startswith("a, c: few images\n\nb: many\n\nNo rec")
    assert claims.write_up(entries[:1], "text").startswith("a: few images\n\nNo rec")


def test_a_table_is_filled_in_and_the_rest_of_the_text_is_kept() -> None:
    text = "before\n<!-- ledger: small -->\nold\n<!-- end -->\nafter"
    filled = "before\n<!-- ledger: small -->\n\nnew\n\n<!-- end -->\nafter"
    assert claims.update(text, {"small": "new"}) == filled
    assert claims.update(filled, {"small": "new"}) == filled


def test_a_text_without_markers_or_with_an_unknown_table_is_refused() -> None:
    with pytest.raises(LedgerError, match="no markers for a table"):
        claims.update("text", {"small": "new"})
    with pytest.raises(LedgerError, match="no table 'smal'.* Did you mean 'small'"):
        claims.update("<!-- ledger: smal -->\n<!-- end -->", {"small": "new"})


# The project's ledger


@pytest.mark.parametrize("name", claims.names(ROOT / "ledger"))
def test_the_command_of_every_claim_of_the_project_resolves(name: str) -> None:
    from sidetune_core.config.resolve import resolve
    from sidetune_core.ledger.reproduce import read_command

    entry = claims.read_entry(ROOT / "ledger", name)
    try:
        assert resolve(read_command(entry.claim)).components
    except PluginError as error:  # the tests of the packages in examples/ resolve their claims
        if "a package of this checkout: pip install ./examples/" not in str(error):
            raise
    assert {run.spec.seed for run in entry.runs} in (set(), set(entry.claim.seeds))


def test_records_have_no_path_of_the_machine_that_made_them() -> None:
    for path in (ROOT / "ledger" / "recorded").glob("*.json"):
        assert "archive" not in json.loads(path.read_text())["spec"]["env"]["options"]


def test_the_tables_of_the_project_are_those_of_the_ledger() -> None:
    entries = [claims.read_entry(ROOT / "ledger", name) for name in claims.names(ROOT / "ledger")]
    by_table: dict[str, list[claims.Entry]] = {}
    for entry in entries:
        by_table.setdefault(entry.claim.table, []).append(entry)
    tables = {name: claims.write_up(members, "markdown") for name, members in by_table.items()}
    tables["summary"] = summarize(by_table, "markdown")
    shown = []
    for page in [ROOT / "docs" / "benchmarks.md", *(ROOT / "docs" / "benchmarks").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        if "<!-- ledger: " in text:
            assert claims.update(text, tables) == text
        shown += re.findall("<!-- ledger: (.+?) -->", text)
    assert sorted(shown) == sorted(tables)
