"""The report of a search: its trials, best first, the importance of options, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidetune_core.errors import RunError
from sidetune_core.io.printable import counted
from sidetune_core.results.cells import UNMEASURED, format_value
from sidetune_core.results.tables import Layout, typeset
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.sweeps.best_spec import commands, write_best
from sidetune_core.sweeps.space import Space, as_text
from sidetune_core.sweeps.study import Study, Trial
from sidetune_core.sweeps.tuner import Search, best_trial, in_percent, read_search


def report_search(out: Path, layout: Layout = "text", trust_local_code: bool = False) -> str:
    """The report of a search so far; it also writes the spec of the best trial.

    Raises:
        RunError: the folder holds no search, or another process works in it.
        PluginError: Optuna is not installed.
    """
    search = read_search(out)
    if search is None:
        raise RunError(f"{out} holds no search (it has no tuning.json); sidetune tune --out {out} begins one")
    with locked(out):
        study = Study(out, search.space, search.sampler, search.pruner, search.seed)
        trials = study.trials
        sections = [
            _heading(search, trials),
            typeset(_table(search.space, trials), layout, left=_left(search)),
        ]
        sections += [line for line in (_reasons(trials), _note(trials)) if line]
        sections.append(_importance(study.importance()))
        if (best := best_trial(trials, search.space)) is not None:
            folder = RunFolder(out / "runs" / best.name)
            value = format_value(best.value, in_percent(search.space))
            comment = f"{best.name} of {out.name}: mean {search.space.metric} {value} on val"
            path = write_best(out, folder, f"{comment}, the best of {counted(len(trials), 'trial')}")
            spec = folder.read_json("run.json")["asked"]
            trust = trust_local_code or "--trust-local-code" in search.space.spec_words
            run, final = commands(path, spec, trust)
            sections.append(
                f"Train on all tasks and all training examples with the options of {best.name}:\n  {run}\n"
                f"With three seeds:\n  {final}"
            )
    return "\n\n".join(sections)


def _heading(search: Search, trials: Sequence[Trial]) -> str:
    space = search.space
    counts = [
        f"{count} {state}"
        for state in ("done", "pruned", "diverged", "failed", "running")
        if (count := sum(trial.state == state for trial in trials))
    ]
    compositions = "; ".join(one.composition for one in space.combinations)
    return (
        f"{compositions}\n{counted(len(trials), 'trial')} ({', '.join(counts) or 'none yet'}), "
        f"sampler {search.sampler} with seed {search.seed}, pruner {search.pruner}; mean {space.metric} on "
        f"split val after the last of the first {counted(space.first_tasks, 'task')}"
    )


def _table(space: Space, trials: Sequence[Trial]) -> list[list[str]]:
    arrow = "↑" if space.higher_is_better else "↓"
    unit = " %" if in_percent(space) else ""
    rows = [["trial", *space.names, f"{space.metric}{unit} {arrow}", "after tasks", "state", "s"]]
    for trial in sorted(trials, key=lambda trial: _order(trial, space)):
        tasks, latest = max(trial.after.items(), default=(0, None))
        value = trial.value if trial.state == "done" else latest
        rows.append(
            [
                f"{trial.number:03d}",
                *(_shown(trial, name) for name in space.names),
                format_value(value, in_percent(space)),
                str(tasks) if tasks else UNMEASURED,
                trial.state,
                UNMEASURED if trial.seconds is None else f"{trial.seconds:.0f}",
            ]
        )
    return rows


def _left(search: Search) -> set[int]:
    return {0, len(search.space.names) + 3}


def _order(trial: Trial, space: Space) -> tuple[int, float, float, int]:
    """Done trials by value, then the others by how far they came and their value there."""
    sign = -1 if space.higher_is_better else 1
    tasks, latest = max(trial.after.items(), default=(0, None))
    if trial.value is not None:
        return 0, 0, sign * trial.value, trial.number
    return 1, -tasks, sign * latest if latest is not None else 0.0, trial.number


def _shown(trial: Trial, name: str) -> str:
    if name not in trial.params:
        return UNMEASURED
    value = trial.params[name]
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def _reasons(trials: Sequence[Trial]) -> str:
    return "\n".join(f"{trial.state}: {trial.name}: {trial.reason}" for trial in trials if trial.reason)


def _note(trials: Sequence[Trial]) -> str:
    if not trials:
        return ""
    return (
        "Each trial is one run with one seed: small differences between trials may be chance. Values of "
        "trials that were not done are those after fewer tasks, and are not compared with the others."
    )


def _importance(importance: Mapping[str, float] | str) -> str:
    if isinstance(importance, str):
        return f"Importance of options: {UNMEASURED} ({importance})"
    listed = ", ".join(f"{name} {value:.2f}" for name, value in importance.items())
    return f"Importance of options (fANOVA, fraction of the variance over finished trials): {listed}"
