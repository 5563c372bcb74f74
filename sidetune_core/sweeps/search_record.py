"""The record of a search for a ledger: everything that was tried, and what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidetune_core.errors import LedgerError, RunError
from sidetune_core.io import strict_json
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.sweeps.study import Study, Trial
from sidetune_core.sweeps.tuner import Search, best_trial, read_search


def record_search(out: Path, path: Path) -> None:
    """Write the record of a search.

    Args:
        out: folder of the search.
        path: the file, such as ``ledger/searches/NAME.json``.

    Raises:
        RunError: the folder holds no search, or another process works in it.
        LedgerError: a trial is running, none is done, or one was made by uncommitted code.
        WriteError: the file cannot be written.
    """
    search = read_search(out)
    if search is None:
        raise RunError(f"{out} holds no search (it has no tuning.json)")
    with locked(out):
        trials = Study(out, search.space, search.sampler, search.pruner, search.seed).trials
    if running := [trial.name for trial in trials if trial.state == "running"]:
        raise LedgerError(f"{', '.join(running)} of {out} are not finished; resume the search first")
    if best_trial(trials, search.space) is None:
        raise LedgerError(f"no trial of {out} is done, so there is nothing to record")
    folders = {trial.number: RunFolder(out / "runs" / trial.name) for trial in trials}
    abouts = {
        number: folder.read_json("run.json")
        for number, folder in folders.items()
        if (folder.path / "run.json").is_file()
    }
    for number, about in abouts.items():
        if about["git"] is None or about["git"]["changed"]:
            raise LedgerError(
                f"{folders[number].path} was made by uncommitted code, so nobody can reproduce it; commit "
                "the changes and search in another --out"
            )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, strict_json.dumps(_plain(search, trials, abouts), indent=1) + "\n")


def without_folders(word: str) -> str:
    """A word of a command line, of an absolute path its name alone: folders are those of one machine."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{Path(value).name if Path(value).expanduser().is_absolute() else value}"


def _plain(
    search: Search, trials: Sequence[Trial], abouts: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """A search as plain values.

    Args:
        search: what was searched.
        trials: all of them.
        abouts: ``run.json`` of the trials that have one, by number.
    """
    best = best_trial(trials, search.space)
    commits = {about["git"]["commit"] for about in abouts.values() if about.get("git")}
    seeds = {about["resolved"]["seed"] for about in abouts.values()}
    return {
        "argv": [without_folders(word) for word in search.argv],
        "sampler": search.sampler,
        "pruner": search.pruner,
        "sampler_seed": search.seed,
        "seed": sorted(seeds),
        "first_tasks": search.space.first_tasks,
        "split": "val",
        "metric": search.space.metric,
        "higher_is_better": search.space.higher_is_better,
        "commits": sorted(commits),
        "best": best.number if best is not None else None,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "value": trial.value,
                "params": dict(trial.params),
                "after": {str(tasks): value for tasks, value in trial.after.items()},
                "reason": trial.reason,
                "seconds": trial.seconds,
            }
            for trial in trials
        ],
    }
