"""Many runs, in processes of their own: those that are done are left alone, those that were stopped or killed go on.

The folder of a sweep holds ``sweep.json`` (what was asked for last), ``runs/NAME`` (the run folders), ``specs/NAME.json`` and
``output/NAME.txt`` (what a run printed). Further runs can be added to it later.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

import attrs

from sidetune_core.config.interval import interval
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import Interrupted, OptionError, RunError
from sidetune_core.results.report import in_percent, one_line
from sidetune_core.results.summary import summarise
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.sweeps.executors import Executor, LocalProcesses, RayTasks
from sidetune_core.sweeps.grid import PlannedRun, planned
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import SIGNALS, handle_signals

On = Literal["local", "ray"]
RETRIES = 2

State = Literal["new", "unfinished", "done"]
_STOPPED = {
    128 + number for number in SIGNALS
}  # exit statuses of a run that a signal has stopped, and that has saved its state


@attrs.frozen
class SweptRun:
    """What has become of a run."""

    name: str
    folder: Path
    status: Literal["done", "failed", "stopped"]
    reason: str = ""
    """Why it failed."""


def sweep(
    specs: Mapping[str, RunSpec],
    out: Path | str,
    workers: int | None = None,
    on: On = "local",
    retries: int = RETRIES,
    save_every: str | None = None,
    quiet: bool = True,
) -> list[SweptRun]:
    """Run several specs in processes of their own, each into ``out/runs/NAME``. Those that are done there are not run again.

    Args:
        specs: by the name of the folder.
        out: the folder of the sweep.
        workers: how many runs at once; None for what the GPUs or cores suggest.
        on: processes of this machine, or Ray (which has to be installed).
        retries: how often to go on with a run whose process was killed.
        save_every: see `run`.
        quiet: show no progress.

    Raises:
        SidetuneError: a spec does not hold, or a folder has another run in it; nothing is run then.
        Interrupted: SIGINT or SIGTERM came; the runs have saved their state.
    """
    for name in specs:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise OptionError(f"'{name}' cannot name a folder; use letters, digits and _ . + -")
    runs = [planned(name, resolve(spec)) for name, spec in specs.items()]
    info = print_nothing if quiet else print_aside
    return carry_out(runs, Path(out), choose(on, workers), retries, save_every, info)


def choose(on: On, workers: int | None) -> Executor:
    """The executor for a name.

    Raises:
        SidetuneError: it is not there, or cannot be so large.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"--workers must be at least 1, not {workers}")
    return RayTasks(workers) if on == "ray" else LocalProcesses(workers)


def states(runs: Sequence[PlannedRun], out: Path) -> list[State]:
    """How far each run is.

    Raises:
        RunError: a folder holds something else.
    """
    return [_state(run, RunFolder(out / "runs" / run.name)) for run in runs]


def carry_out(
    runs: Sequence[PlannedRun],
    out: Path,
    executor: Executor,
    retries: int,
    save_every: str | None,
    info: Callable[[str], None],
    about: Mapping[str, Any] | None = None,
) -> list[SweptRun]:
    """Run what is not done yet.

    Args:
        runs: with different names.
        out: the folder of the sweep.
        executor: where.
        retries: how often to go on with a run whose process was killed.
        save_every: for the runs, see `engine.run`; None for their own default.
        say: shows a line to the user.
        about: what else ``sweep.json`` is to hold.

    Raises:
        RunError: a folder holds another run, another process is at work here, or it cannot be written; nothing was run.
        Interrupted: SIGINT or SIGTERM came; the runs have saved their state.
    """
    if retries < 0:
        raise OptionError(f"--retries must be at least 0, not {retries}")
    if save_every is not None:
        interval(save_every)
    with writing(out):
        for folder in ("runs", "specs", "output"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    with locked(out):
        before = dict(zip((run.name for run in runs), states(runs, out), strict=True))
        with writing(out / "sweep.json"):
            made = {**(about or {}), "runs": {run.name: run.composition for run in runs}}
            write_text(out / "sweep.json", json.dumps(made, indent=2) + "\n")
            for run in runs:
                write_text(out / "specs" / f"{run.name}.json", json.dumps(run.spec, indent=2) + "\n")
        return _Sweep(runs, out, executor, retries, save_every, info).carry_out(before)


class _Sweep:
    """The runs of one call, a thread for each that is under way."""

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        out: Path,
        executor: Executor,
        retries: int,
        save_every: str | None,
        info: Callable[[str], None],
    ) -> None:
        self.runs, self.out, self.executor, self.retries, self.info = runs, out, executor, retries, info
        self.saving = ["--save-every", save_every] if save_every is not None else []
        self.stopping = threading.Event()
        self.ended: dict[str, SweptRun] = {}
        self.lock = threading.Lock()

    def carry_out(self, before: Mapping[str, State]) -> list[SweptRun]:
        counts = {state: list(before.values()).count(state) for state in ("done", "unfinished", "new")}
        self.info(
            f"runs: {len(self.runs)}; {counts['done']} done before, {counts['unfinished']} to go on with, {counts['new']} to begin"
        )
        self.ended = {run.name: self._swept(run, "done") for run in self.runs if before[run.name] == "done"}
        with handle_signals(Progress().notice) as stop, ThreadPoolExecutor(self.executor.workers) as pool:
            pending = {pool.submit(self._thread, run) for run in self.runs if before[run.name] != "done"}
            try:
                while pending:
                    over, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in over:
                        future.result()  # raises what has gone wrong in the sweep itself
                    if stop.number is not None and not self.stopping.is_set():
                        self.stopping.set()
                        self.executor.stop(stop.number)
            except BaseException:
                self.stopping.set()
                self.executor.stop(signal.SIGINT)
                raise
        if stop.number is not None and any(one.status == "stopped" for one in self.ended.values()):
            raise Interrupted(self.out, stop.number)
        return [self.ended[run.name] for run in self.runs]

    def _thread(self, run: PlannedRun) -> None:
        swept = self._carry_out(run)
        with self.lock:
            self.ended[run.name] = swept
            if swept.status != "stopped":
                over = sum(one.status != "stopped" for one in self.ended.values())
                self.info(
                    f"{swept.status:<8} {swept.name} [{over}/{len(self.runs)}]: {swept.reason or _result(swept.folder)}"
                )

    def _carry_out(self, run: PlannedRun) -> SweptRun:
        """A run to its end, in a thread."""
        folder, output = RunFolder(self.out / "runs" / run.name), self.out / "output" / f"{run.name}.txt"
        for attempt in range(self.retries + 1):
            if self.stopping.is_set():
                return self._swept(run, "stopped")
            words = self._words(run, folder)
            self.info(f"{'go on' if words[0] == '--resume' else 'begin':<8} {run.name}")
            try:
                status = self.executor.carry_out(words, output)
            except OSError as error:
                return self._swept(run, "failed", f"{error}")
            if status == 0:
                return self._swept(run, "done")
            if self.stopping.is_set():
                return self._swept(run, "stopped")
            if status > 0 and status not in _STOPPED:
                return self._swept(run, "failed", _last_line(output))
            how = f"killed by {signal.Signals(-status if status < 0 else status - 128).name}"
            if attempt < self.retries:
                self.info(f"{'died':<8} {run.name}: {how}; retry {attempt + 1} of {self.retries}")
        return self._swept(run, "failed", f"{how}, {self.retries + 1} times; see {output}")

    def _words(self, run: PlannedRun, folder: RunFolder) -> list[str]:
        """What to give to ``sidetune-run``."""
        if _state(run, folder) == "new":
            if folder.path.is_dir():
                shutil.rmtree(folder.path)  # of a process that was killed before it wrote down what it is
            return [
                "--spec",
                str(self.out / "specs" / f"{run.name}.json"),
                "--out",
                str(folder.path),
                *self.saving,
            ]
        return ["--resume", str(folder.path), *self.saving]

    def _swept(
        self, run: PlannedRun, status: Literal["done", "failed", "stopped"], reason: str = ""
    ) -> SweptRun:
        return SweptRun(run.name, self.out / "runs" / run.name, status, reason)


def _result(folder: Path) -> str:
    """What a run has come to, in a few words."""
    summary = summarise(RunFolder(folder))
    return f"{one_line(summary.results, in_percent(summary.results))}, {summary.seconds:.0f} s"


def print_aside(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def print_nothing(line: str) -> None:
    """No progress."""


def _state(run: PlannedRun, folder: RunFolder) -> State:
    """How far a run is.

    Raises:
        RunError: its folder holds something else.
    """
    if not (folder.path / "run.json").is_file():
        ours = re.compile(
            r"lock|lock\.json|\.run\.json\.[0-9a-f]+"
        )  # what a process that was killed at its very start leaves
        if foreign := [
            path for path in folder.path.rglob("*") if path.is_file() and not ours.fullmatch(path.name)
        ]:
            raise RunError(
                f"{folder.path} is no run of this sweep: it holds {foreign[0].name}; remove it, or choose another --out"
            )
        return "new"
    there = folder.read_json("run.json").get("resolved")
    if there != run.spec:
        differs = ", ".join(_differences(there, run.spec)) or "its spec"
        raise RunError(
            f"{folder.path} holds another run than the one asked for ({differs}); choose another --out, or remove it"
        )
    return "done" if folder.status == "done" else "unfinished"


def _differences(there: Any, asked: Any) -> list[str]:
    """``train.lr 0.001 there, 0.01 asked for``, for each value that differs."""
    flat_there, flat_asked = _flat(there), _flat(asked)
    names = [name for name in {**flat_there, **flat_asked} if flat_there.get(name) != flat_asked.get(name)]
    return [f"{name} {flat_there.get(name)} there, {flat_asked.get(name)} asked for" for name in names]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping):
        return {prefix.removesuffix("."): values}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, prefix if name == "options" else f"{prefix}{name}.")
    return flat


def _last_line(path: Path) -> str:
    """What a run said at its end."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"see {path}"
