"""Run several specs in processes of their own; finished runs are skipped, interrupted and killed ones
resumed. A run that has diverged is listed as such and not repeated: it would diverge again.

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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

import attrs

from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.differences import differences
from sidetune_core.config.interval import interval
from sidetune_core.config.options import warn_former
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values
from sidetune_core.errors import Interrupted, OptionError, RunError, SidetuneError, shorten
from sidetune_core.io import strict_json
from sidetune_core.io.printable import counted
from sidetune_core.io.printable import one_line as escaped_line
from sidetune_core.results.cells import in_percent
from sidetune_core.results.report import one_line
from sidetune_core.results.summary import summarise
from sidetune_core.storage.atomic import clear_unfinished, write_text, writing
from sidetune_core.storage.lock import is_held, locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.status import has_diverged
from sidetune_core.sweeps.attempts import RETRIES, Attempts
from sidetune_core.sweeps.executors import Executor, LocalProcesses, RayTasks
from sidetune_core.sweeps.grid import PlannedRun, make_settled, planned
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import handle_signals

ExecutorName = Literal["local", "ray"]
State = Literal["new", "unfinished", "done", "diverged"]


@attrs.frozen
class SweptRun:
    """The outcome of a run."""

    name: str
    folder: Path
    status: Literal["done", "diverged", "failed", "stopped"]
    reason: str = ""
    """Why it diverged or failed."""


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
    _check_without_objects(specs)
    settled = make_settled()
    runs = [planned(name, settled(resolve(spec))) for name, spec in specs.items()]
    info = print_nothing if quiet else print_aside
    trusted = any(spec.trust_local_code is True for spec in specs.values())
    chosen = choose(executor, workers)
    return carry_out(runs, Path(out), chosen, retries, save_every, info, trust_local_code=trusted)


def _check_without_objects(specs: Mapping[str, RunSpec]) -> None:
    """Check that other processes can make the components.

    Raises:
        OptionError: a spec has an object of Python.
    """
    held = {
        name: slots
        for name, spec in specs.items()
        if (
            slots := [
                slot for slot in ("base", "env") if getattr(spec.component(slot), "given", None) is not None
            ]
        )
    }
    if held:
        name, slots = next(iter(held.items()))
        raise OptionError(
            f"{len(held)} of {len(specs)} specs have objects of this process ('{name}': "
            f"{' and '.join(slots)}), "
            "and the runs of a sweep are processes of their own: call sidetune_core.run(spec, "
            "out=...) for each, "
            "or choose components by name"
        )


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
    trust_local_code: bool = False,
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
        trust_local_code: the runs import code that their data names.

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
            write_text(out / "sweep.json", strict_json.dumps(made, indent=2) + "\n")
            for run in runs:
                write_text(out / "specs" / f"{run.name}.json", strict_json.dumps(run.spec, indent=2) + "\n")
        sweep = _Sweep(runs, out, executor, retries, save_every, info, trust_local_code)
        return sweep.carry_out(before)


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
        trust_local_code: bool,
    ) -> None:
        self.runs, self.out, self.executor, self.info = runs, out, executor, info
        # the names in the specs are those of the plan: the user typed them, or trusted the file they were in
        self.options = ["--trust-local-code" if trust_local_code else "--trust-spec"]
        self.options += ["--save-every", save_every] if save_every is not None else []
        self.stopping = threading.Event()
        self.attempts = Attempts(executor, retries, info, self.stopping.is_set)
        self.outcomes: dict[str, SweptRun] = {}
        self.lock = threading.Lock()

    def carry_out(self, before: Mapping[str, State]) -> list[SweptRun]:
        counts = Counter(before.values())
        diverged = f", {counts['diverged']} diverged" if counts["diverged"] else ""
        self.info(
            f"{counted(len(self.runs), 'run')}: {counts['done']} done{diverged}, "
            f"{counts['unfinished']} to resume, {counts['new']} new"
        )
        self.outcomes = {
            run.name: self._ended(run) for run in self.runs if before[run.name] in ("done", "diverged")
        }
        with handle_signals(Progress().notice) as stop, ThreadPoolExecutor(self.executor.workers) as pool:
            pending = {pool.submit(self._thread, run) for run in self.runs if run.name not in self.outcomes}
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
        ended = self.attempts.execute(run.name, folder, output, lambda: self._argv(run, folder))
        if ended.status == "done":
            return self._ended(run)
        return self._swept(run, ended.status, ended.reason)

    def _argv(self, run: PlannedRun, folder: RunFolder) -> list[str]:
        """The arguments of ``sidetune-run``.

        Raises:
            RunError: another process has just begun a run in the folder.
        """
        if _state(run, folder) == "new":
            if folder.path.is_dir():
                clear(folder.path)
            spec = self.out / "specs" / f"{run.name}.json"
            return ["--spec", str(spec), "--out", str(folder.path), *self.options]
        return ["--resume", str(folder.path), *self.options]

    def _ended(self, run: PlannedRun) -> SweptRun:
        """The outcome of a run that is done, or has diverged and would do so again."""
        status = RunFolder(self.out / "runs" / run.name).status
        if has_diverged(status):
            return self._swept(run, "diverged", status.partition(": ")[2])
        try:
            _result(self.out / "runs" / run.name)
        except RunError as error:
            return self._swept(run, "failed", str(error))
        return self._swept(run, "done")

    def _swept(
        self, run: PlannedRun, status: Literal["done", "diverged", "failed", "stopped"], reason: str = ""
    ) -> SweptRun:
        return SweptRun(run.name, self.out / "runs" / run.name, status, reason)


def _result(folder: Path) -> str:
    """The result of a run in one line."""
    summary = summarise(RunFolder(folder))
    return f"{one_line(summary.results, in_percent(summary.results))}, {summary.seconds or 0:.0f} s"


def print_aside(line: str) -> None:
    """Print a line of progress to stderr."""
    print(escaped_line(line), file=sys.stderr, flush=True)


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
    if recorded != run.spec and _respelled(recorded, run.spec, folder.path) != run.spec:
        found = differences(recorded, run.spec, transparent={"options"})
        shown = [f"{one.name} is {one.first} there, {one.second} was requested" for one in found]
        raise RunError(
            f"{folder.path} holds another run ({shorten(shown) or 'its spec differs'}); "
            "choose another --out, or remove it"
        )
    if has_diverged(folder.status):
        return "diverged"
    reported = (folder.path / "report.md").is_file()  # the last file that a run writes
    return "done" if folder.finished and reported else "unfinished"


def clear(folder: Path) -> None:
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


def _respelled(recorded: Any, requested: Mapping[str, Any], path: Path) -> Any:
    """The resolved spec of a run with the present names of all options; None if it is invalid now, or names
    code that was not requested."""
    try:
        spec = from_values(recorded, str(path / "run.json"), recorded=True)
        wanted = from_values(requested, "the plan", trust_local_code="spec")
        same = {
            slot: attrs.evolve(chosen, name_typed=True)
            for slot in DEFAULTS
            if (chosen := spec.component(slot))
            and (other := wanted.component(slot))
            and chosen.name == other.name
        }
        spec = resolve(spec.with_components(same)).to_spec()
    except SidetuneError:
        return None
    return json.loads(json.dumps(spec.to_json()))
