"""Run several specs in processes of their own; finished runs are skipped, interrupted and killed ones
resumed.

The folder of a sweep holds ``sweep.json`` (the latest grid), ``runs/NAME`` (the run folders),
``specs/NAME.json`` and ``output/NAME.txt`` (the output of a run). Runs can be added to it later.
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

from sidetune_core.config.differences import differences
from sidetune_core.config.interval import interval
from sidetune_core.config.options import warn_former
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec, from_values
from sidetune_core.errors import Interrupted, OptionError, RunError, SidetuneError, shorten
from sidetune_core.results.report import in_percent, one_line
from sidetune_core.results.summary import summarise
from sidetune_core.storage.atomic import clear_unfinished, write_text, writing
from sidetune_core.storage.lock import is_held, locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.sweeps.executors import Executor, LocalProcesses, RayTasks
from sidetune_core.sweeps.grid import PlannedRun, planned
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import SIGNALS, handle_signals

ExecutorName = Literal["local", "ray"]
RETRIES = 2

State = Literal["new", "unfinished", "done"]
_INTERRUPTED = {
    128 + number for number in SIGNALS
}  # exit statuses of a run that saved a checkpoint after a signal


@attrs.frozen
class SweptRun:
    """The outcome of a run."""

    name: str
    folder: Path
    status: Literal["done", "failed", "stopped"]
    reason: str = ""
    """The reason of a failure."""


def sweep(
    specs: Mapping[str, RunSpec],
    out: Path | str,
    workers: int | None = None,
    executor: ExecutorName = "local",
    retries: int = RETRIES,
    save_every: str | None = None,
    quiet: bool = True,
    *,
    on: ExecutorName | None = None,
) -> list[SweptRun]:
    """Run several specs in processes of their own, each into ``out/runs/NAME``; finished ones are skipped.

    Args:
        specs: by folder name.
        out: folder of the sweep.
        workers: number of concurrent runs; None for one per GPU, or one per four cores without a GPU.
        executor: processes of this machine, or Ray (which has to be installed).
        retries: how often to resume a run whose process was killed.
        save_every: see `run`.
        quiet: print no progress.
        on: the former name of `executor`.

    Raises:
        SidetuneError: a spec is invalid, or a folder holds another run; nothing was run.
        Interrupted: by SIGINT or SIGTERM; the runs have saved a checkpoint.
    """
    if on is not None:
        warn_former("sweep(on=…)", "sweep(executor=…)")
        executor = on
    for name in specs:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise OptionError(f"'{name}' is not a valid folder name; use letters, digits and _ . + -")
    runs = [planned(name, resolve(spec)) for name, spec in specs.items()]
    info = print_nothing if quiet else print_aside
    return carry_out(runs, Path(out), choose(executor, workers), retries, save_every, info)


def choose(name: ExecutorName, workers: int | None) -> Executor:
    """The executor for a name.

    Raises:
        SidetuneError: it is not available, or the number of workers is invalid.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"--workers must be at least 1, not {workers}")
    return RayTasks(workers) if name == "ray" else LocalProcesses(workers)


def states(runs: Sequence[PlannedRun], out: Path) -> list[State]:
    """The state of each run.

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
    """Run the unfinished runs.

    Args:
        runs: with distinct names.
        out: folder of the sweep.
        executor: executes the runs.
        retries: how often to resume a run whose process was killed.
        save_every: see `training.run.run`; None for its default.
        info: prints a line of progress.
        about: further content of ``sweep.json``.

    Raises:
        RunError: a folder holds another run, is locked by another process, or cannot be written; nothing was
        run. Interrupted: by SIGINT or SIGTERM; the runs have saved a checkpoint.
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
        for path in (out, out / "specs"):
            clear_unfinished(path)
        with writing(out / "sweep.json"):
            made = {**(about or {}), "runs": {run.name: run.composition for run in runs}}
            write_text(out / "sweep.json", json.dumps(made, indent=2) + "\n")
            for run in runs:
                write_text(out / "specs" / f"{run.name}.json", json.dumps(run.spec, indent=2) + "\n")
        return _Sweep(runs, out, executor, retries, save_every, info).carry_out(before)


class _Sweep:
    """The runs of one call, with a thread per concurrent run."""

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
        self.outcomes: dict[str, SweptRun] = {}
        self.lock = threading.Lock()

    def carry_out(self, before: Mapping[str, State]) -> list[SweptRun]:
        counts = {state: list(before.values()).count(state) for state in ("done", "unfinished", "new")}
        done, unfinished, new = (counts[state] for state in ("done", "unfinished", "new"))
        self.info(f"{len(self.runs)} runs: {done} done, {unfinished} to resume, {new} new")
        self.outcomes = {
            run.name: self._swept(run, "done") for run in self.runs if before[run.name] == "done"
        }
        with handle_signals(Progress().notice) as stop, ThreadPoolExecutor(self.executor.workers) as pool:
            pending = {pool.submit(self._thread, run) for run in self.runs if before[run.name] != "done"}
            try:
                while pending:
                    over, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in over:
                        future.result()  # raises the errors of the sweep itself
                    if stop.number is not None and not self.stopping.is_set():
                        self.stopping.set()
                        self.executor.stop(stop.number)
            except BaseException:
                self.stopping.set()
                self.executor.stop(signal.SIGINT)
                raise
        if stop.number is not None and any(run.status == "stopped" for run in self.outcomes.values()):
            raise Interrupted(self.out, stop.number)
        return [self.outcomes[run.name] for run in self.runs]

    def _thread(self, run: PlannedRun) -> None:
        swept = self._carry_out(run)
        with self.lock:
            self.outcomes[run.name] = swept
            if swept.status != "stopped":
                count = sum(run.status != "stopped" for run in self.outcomes.values())
                result = swept.reason or _result(swept.folder)
                self.info(f"{swept.status:<8} {swept.name} [{count}/{len(self.runs)}]: {result}")

    def _carry_out(self, run: PlannedRun) -> SweptRun:
        """Execute a run, in a thread."""
        folder, output = RunFolder(self.out / "runs" / run.name), self.out / "output" / f"{run.name}.txt"
        for attempt in range(self.retries + 1):
            if self.stopping.is_set():
                return self._swept(run, "stopped")
            try:
                argv = self._argv(run, folder)
                self.info(f"{'resume' if argv[0] == '--resume' else 'start':<8} {run.name}")
                status = self.executor.execute(argv, output)
            except (OSError, RunError) as error:
                return self._swept(run, "failed", f"{error}")
            if status == 0:
                return self._swept(run, "done")
            if self.stopping.is_set():
                return self._swept(run, "stopped")
            if status > 0 and status not in _INTERRUPTED:
                return self._swept(run, "failed", _last_line(output))
            how = f"killed by {signal.Signals(-status if status < 0 else status - 128).name}"
            if attempt < self.retries:
                self.info(f"{'killed':<8} {run.name}: {how}; retry {attempt + 1} of {self.retries}")
        return self._swept(run, "failed", f"{how}, {self.retries + 1} times; see {output}")

    def _argv(self, run: PlannedRun, folder: RunFolder) -> list[str]:
        """The arguments of ``sidetune-run``.

        Raises:
            RunError: another process has just begun a run in the folder.
        """
        if _state(run, folder) == "new":
            if folder.path.is_dir():
                _clear(folder.path)
            spec = self.out / "specs" / f"{run.name}.json"
            return ["--spec", str(spec), "--out", str(folder.path), *self.saving]
        return ["--resume", str(folder.path), *self.saving]

    def _swept(
        self, run: PlannedRun, status: Literal["done", "failed", "stopped"], reason: str = ""
    ) -> SweptRun:
        return SweptRun(run.name, self.out / "runs" / run.name, status, reason)


def _result(folder: Path) -> str:
    """The result of a run in one line."""
    summary = summarise(RunFolder(folder))
    return f"{one_line(summary.results, in_percent(summary.results))}, {summary.seconds:.0f} s"


def print_aside(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def print_nothing(line: str) -> None:
    """Print no progress."""


def _state(run: PlannedRun, folder: RunFolder) -> State:
    """The state of a run.

    Raises:
        RunError: its folder holds something else.
    """
    if not (folder.path / "run.json").is_file():
        ours = re.compile(
            r"lock|lock\.json|\.run\.json\.[0-9a-f]+"
        )  # left by a process that was killed early
        files = [path for path in folder.path.rglob("*") if path.is_file()]
        foreign = [path for path in files if not ours.fullmatch(path.name)]
        if foreign:
            raise RunError(
                f"{folder.path} is not a run of this sweep: it holds {foreign[0].name}; "
                "remove it, or choose another --out"
            )
        return "new"
    recorded = folder.read_json("run.json").get("resolved")
    if recorded != run.spec and _respelled(recorded, folder.path) != run.spec:
        found = differences(recorded, run.spec, transparent={"options"})
        shown = [f"{one.name} is {one.first} there, {one.second} was requested" for one in found]
        raise RunError(
            f"{folder.path} holds another run ({shorten(shown) or 'its spec differs'}); "
            "choose another --out, or remove it"
        )
    reported = (folder.path / "report.md").is_file()  # the last file that a run writes
    return "done" if folder.status == "done" and reported else "unfinished"


def _clear(folder: Path) -> None:
    """Empty the folder, which may be a link, of a process that was killed before it wrote ``run.json``.

    Raises:
        RunError: the process is alive.
    """
    if is_held(folder):
        raise RunError(f"the run {folder} is in use by another process; stop it, then run the sweep again")
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _respelled(recorded: Any, path: Path) -> Any:
    """The resolved spec of a run with the present names of all options; None if it is invalid now."""
    try:
        spec = resolve(from_values(recorded, str(path / "run.json"), recorded=True)).to_spec()
    except SidetuneError:
        return None
    return json.loads(json.dumps(spec.to_json()))


def _last_line(path: Path) -> str:
    """The last line of a run's output."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"see {path}"
