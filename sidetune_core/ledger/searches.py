"""Searches of options, as `sidetune tune --record` has written them, and the claims that rest on them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.errors import LedgerError
from sidetune_core.io.files import read_text
from sidetune_core.io.printable import counted

FOLDER = "searches"


@attrs.frozen
class SearchRecord:
    """A search that a claim rests on."""

    name: str
    trials: int
    """That were done, pruned or diverged."""
    first_tasks: int
    chosen: Mapping[str, Any]
    """The options of the best trial, by name."""

    def __str__(self) -> str:
        return f"{counted(self.trials, 'trial')}, first {counted(self.first_tasks, 'task')}"


def read_search_record(ledger: Path, name: str) -> SearchRecord:
    """The search ``searches/NAME.json`` of a ledger.

    Raises:
        LedgerError: it is missing or damaged, or its best trial is another than its values say.
    """
    path = ledger / FOLDER / f"{name}.json"
    if not path.is_file():
        raise LedgerError(
            f"the ledger has no search '{name}' ({path}); record one: sidetune tune --report FOLDER "
            f"--record {shlex.quote(str(path))}"
        )
    try:
        values = json.loads(read_text(path))
        done = [trial for trial in values["trials"] if trial["state"] == "done"]
        sign = -1 if values["higher_is_better"] else 1
        best = min(done, key=lambda trial: (sign * trial["value"], trial["number"]))
        if best["number"] != values["best"]:
            raise LedgerError(
                f"{path}: the best trial is {best['number']} by its value, not {values['best']}"
            )
        counts = sum(trial["state"] in ("done", "pruned", "diverged") for trial in values["trials"])
        return SearchRecord(name, counts, int(values["first_tasks"]), dict(best["params"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerError(f"cannot read the search {path}: {error!r}") from error


def check_chosen(command: str, search: SearchRecord, file: Path) -> None:
    """Check that a claim's command has the options that its search has chosen.

    Raises:
        LedgerError: it has others.
    """
    words = shlex.split(command)
    different = []
    for name, value in search.chosen.items():
        given = _given(words, name)
        if not any(_same(text, value) for text in given):
            shown = " ".join(given) or "nothing"
            different.append(f"--{name} {value} was chosen, the command has {shown}")
    if different:
        raise LedgerError(f"{file}: search '{search.name}' and the command differ: {'; '.join(different)}")


def search_lines(methods: Sequence[tuple[str, SearchRecord | None]]) -> list[str]:
    """Which methods of a table were searched, and which were not; nothing if none was."""
    searched = [f"{method} ({search})" for method, search in methods if search is not None]
    if not searched:
        return []
    others = [method for method, search in methods if search is None]
    lines = [f"Searched on split val: {'; '.join(searched)}."]
    return [*lines, f"Not searched: {'; '.join(others)}."] if others else lines


def _given(words: Sequence[str], name: str) -> list[str]:
    """The value of an option in a command line; for a switch, "true" or "false"."""
    slot, _, option = name.rpartition(".")
    for index, word in enumerate(words):
        typed, equals, value = word.replace("_", "-").partition("=")
        if typed == f"--{slot}.no-{option}":
            return ["false"]
        if typed == f"--{name}":
            if equals:
                return [word.partition("=")[2]]
            following = words[index + 1 : index + 2]
            return ["true"] if not following or following[0].startswith("--") else [following[0]]
    return []


def _same(text: str, value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return text == str(value)
