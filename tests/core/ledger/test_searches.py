"""Claims whose options were selected by a search that the ledger has recorded."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidetune_core.errors import LedgerError
from sidetune_core.ledger.claims import names, read_entry
from sidetune_core.ledger.searches import SearchRecord, search_lines

ROOT = Path(__file__).parents[3]

WriteLedger = Callable[..., Path]


@pytest.fixture
def write_ledger(tmp_path: Path) -> WriteLedger:
    """A ledger with a claim that names a search of two trials, the first of which is the best."""

    def write(command: str, best: int = 0, **changes: Any) -> Path:
        trials = [
            {
                "number": 0,
                "state": "done",
                "value": 0.9,
                "params": {"train.lr": 0.005, "learner.norm": "false"},
            },
            {
                "number": 1,
                "state": "done",
                "value": 0.8,
                "params": {"train.lr": 0.001, "learner.norm": "true"},
            },
            {
                "number": 2,
                "state": "failed",
                "value": None,
                "params": {"train.lr": 0.1, "learner.norm": "true"},
            },
        ]
        search = {"higher_is_better": True, "best": best, "first_tasks": 3, "trials": trials, **changes}
        (tmp_path / "searches").mkdir()
        (tmp_path / "searches" / "s.json").write_text(json.dumps(search))
        claim = (
            f'table = "T"\nmethod = "m"\ncommand = "{command}"\nseeds = [0]\ntolerance = 0.1\nsearch = "s"\n'
        )
        (tmp_path / "a.toml").write_text(claim)
        (tmp_path / "protocol.toml").write_text("")
        return tmp_path

    return write


def test_a_claim_names_the_search_that_chose_its_options(write_ledger: WriteLedger) -> None:
    ledger = write_ledger("sidetune-run --train.lr 5e-3 --learner.no-norm")
    assert names(ledger) == ["a"]
    search = read_entry(ledger, "a").search
    assert search == SearchRecord("s", 2, 3, {"train.lr": 0.005, "learner.norm": "false"})
    assert search_lines([("m", search), ("other", None)]) == [
        "Searched on split val: m (2 trials, first 3 tasks).",
        "Not searched: other.",
    ]
    assert search_lines([("other", None)]) == []


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        (
            "sidetune-run --train.lr=1e-3 --learner.no-norm",
            {},
            "--train.lr 0.005 was chosen, the command has 1e-3",
        ),
        (
            "sidetune-run --train.lr 5e-3 --learner.norm",
            {},
            "--learner.norm false was chosen, the command has true",
        ),
        ("sidetune-run", {}, "the command has nothing"),
        ("sidetune-run", {"best": 1}, "the best trial is 0 by its value, not 1"),
        ("sidetune-run", {"trials": 7}, "cannot read the search"),
    ],
)
def test_a_claim_that_its_search_contradicts_is_refused(
    write_ledger: WriteLedger, command: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LedgerError, match=message):
        read_entry(write_ledger(command, **changes), "a")


def test_a_search_that_is_missing_is_named_with_the_command_that_records_it(
    write_ledger: WriteLedger,
) -> None:
    ledger = write_ledger("sidetune-run")
    (ledger / "searches" / "s.json").unlink()
    with pytest.raises(LedgerError, match="no search 's' .* sidetune tune --report FOLDER --record"):
        read_entry(ledger, "a")


def test_the_protocol_gives_every_method_the_same_trials_and_budget() -> None:
    searches = tomllib.loads((ROOT / "ledger" / "protocol.toml").read_text())["searches"]
    for name, command in searches.items():
        words = command.split()
        options = dict(zip(words, words[1:], strict=False))
        same = [options[name] for name in ("--trials", "--first-tasks", "--sampler", "--train.lr")]
        assert same == ["12", "3", "random", "1e-4..3e-2:log"], name
        assert not any(
            word.startswith(("--train.steps", "--train.batch-size", "--train.epochs")) for word in words
        )
