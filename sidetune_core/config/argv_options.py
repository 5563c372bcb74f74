"""The options of ``sidetune-run`` that belong to no component."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sidetune_core.scenarios import DEFAULT, Scenario

PROGRAM = "sidetune-run"

GENERAL: dict[str, tuple[Any, Any, str]] = {
    "spec": (Path | None, None, "start from this spec: a .toml or .json file, or the run.json of a run"),
    "seed": (int, 0, "seed of all random numbers"),
    "scenario": (
        Scenario,
        DEFAULT,
        "task: the task of each example is known at test time; domain: all tasks have the same classes, and "
        "the task is not known; class: every task adds classes, and the task is not known",
    ),
    "out": (Path | None, None, "run folder, empty or absent; None for a new one in runs/"),
    "resume": (
        Path | None,
        None,
        "resume the run in this folder, to the same bytes; of other options, only --save-every, "
        "--workers and paths of the env (--env.root), where the same data are now, can be set with it",
    ),
    "extend": (
        Path | None,
        None,
        "add the tasks of --env to the finished run in this folder, or in a copy of it (--out); components, "
        "their options and the seed are those of the run, options of the env that are not set have their "
        "defaults",
    ),
    "tasks": (tuple[str, ...], (), "with --extend: the tasks of --env to add, by id; all of them if not set"),
    "save_every": (
        str | None,
        None,
        "interval between checkpoints within a task, for --resume: steps (200), seconds (30s), or none for "
        "a checkpoint at interruptions only; default 60s",
    ),
    "workers": (
        str | None,
        None,
        "number of processes that train tasks side by side, or ray for those of a Ray cluster; the learner's "
        "tasks have to be independent; default 1",
    ),
    "measure": (
        Literal["test", "val"],
        "test",
        "split on which R is measured; with val, to select options, no other split is evaluated",
    ),
    "first_tasks": (int | None, None, "number of tasks of the env to train, from the first on; None for all"),
    "keep": (
        Literal["all", "last"],
        "all",
        "whether earlier checkpoints keep the tensors that later tasks change (all), or only the newest "
        "checkpoint can be read, which takes less disk (last)",
    ),
    "allow_changed_plugins": (
        bool,
        False,
        "the same as --allow-changed plugins",
    ),
    "allow_changed_data": (
        bool,
        False,
        "the same as --allow-changed data",
    ),
    "allow_changed": (
        tuple[str, ...],
        (),
        "with --resume or --extend: continue although the spec in run.json ('spec'), the data ('data') or "
        "the source of a plugin ('plugins') has changed since the latest checkpoint",
    ),
    "trust_local_code": (
        bool,
        False,
        "import code that a file names: module:Class in a spec or run.json, or in data such as a recording",
    ),
    "dry_run": (bool, False, "print the resolved spec and exit"),
    "quiet": (bool, False, "print no progress"),
    "debug": (bool, False, "print the traceback of an error"),
}

OF_SPEC = ("seed", "scenario")
"""The general options that are part of a spec."""

TRUST_SPEC = "trust-spec"
"""The option of a sweep's workers that is like ``--trust-local-code``, for the spec or ``run.json`` only."""

RESUMABLE = (
    "resume",
    "save-every",
    "workers",
    "quiet",
    "debug",
    "allow-changed",
    "allow-changed-plugins",
    "allow-changed-data",
    "trust-local-code",
    TRUST_SPEC,
)
"""The options that can be combined with ``--resume``."""
