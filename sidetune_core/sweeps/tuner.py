"""A search of options, carried out: trials in processes of their own, which measure split 'val' only.

The folder of a search holds ``tuning.json`` (what is searched, and how), ``journal.log`` (Optuna's storage),
``runs/trial-NNN`` (the run folders), ``output/trial-NNN.txt`` (their output) and, once a trial is done,
``best.toml`` (see `best_spec`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, get_args

import attrs

from sidetune_core.config.interval import interval
from sidetune_core.errors import Interrupted, OptionError, RunError
from sidetune_core.io import strict_json
from sidetune_core.io.printable import counted
from sidetune_core.results.cells import format_value
from sidetune_core.results.metrics import Results, average_accuracy, mean
from sidetune_core.results.summary import read_results, summarise
from sidetune_core.storage.atomic import clear_unfinished, write_text, writing
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.status import has_diverged
from sidetune_core.sweeps.attempts import Attempts, Ended
from sidetune_core.sweeps.executors import Executor
from sidetune_core.sweeps.runner import clear
from sidetune_core.sweeps.space import Params, Space, as_text, read_space
from sidetune_core.sweeps.study import Pruner, Sampler, State, Study, Trial, check_sampler
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import handle_signals

FILE = "tuning.json"
POLL_SECONDS = 0.5
FAILURES = 3
"""Failed trials, if none has succeeded, after which a search ends: they would all fail."""


@attrs.frozen
class Search:
    """What is searched, and how; all of it stays as it is when a search is resumed."""

    space: Space
    sampler: Sampler
    pruner: Pruner
    seed: int
    """Of the sampler."""
    argv: tuple[str, ...]
    """Options of ``sidetune-run`` with ranges, as typed."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``tuning.json``."""
        return {**attrs.asdict(self, recurse=False), "space": self.space.to_json(), "argv": list(self.argv)}


def read_search(out: Path) -> Search | None:
    """The search of a folder; None if it holds none.

    Raises:
        RunError: it is damaged.
    """
    path = out / FILE
    if not path.is_file():
        return None
    try:
        values = strict_json.loads(path.read_text(encoding="utf-8"))
        names = get_args(Sampler), get_args(Pruner)
        if values["sampler"] not in names[0] or values["pruner"] not in names[1]:
            raise ValueError(f"sampler {values['sampler']!r}, pruner {values['pruner']!r}")
        space = read_space(values["space"])
        return Search(space, values["sampler"], values["pruner"], int(values["seed"]), tuple(values["argv"]))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(f"{path} is damaged: {error!r}; restore it from a copy") from error


@attrs.frozen
class Outcome:
    """The trials of a search, and why it has ended before all of them; empty if it has not."""

    trials: Sequence[Trial]
    note: str = ""


def tune(
    search: Search,
    out: Path,
    trials: int,
    executor: Executor,
    retries: int,
    save_every: str | None,
    info: Callable[[str], None],
    trust_local_code: bool = False,
) -> Outcome:
    """Carry out a search, or the rest of it.

    Args:
        search: what is searched.
        out: its folder.
        trials: how many are to be done, pruned or diverged, those of an earlier call included.
        executor: executes them.
        retries: how often to resume a trial whose process was killed.
        save_every: see `training.run.run`; None for its default.
        info: prints a line of progress.
        trust_local_code: trials import code that a spec or the data names.

    Raises:
        PluginError: Optuna is not installed.
        RunError: the folder holds another search, or is locked by another process; nothing was run.
        Interrupted: by SIGINT or SIGTERM; the trials have saved a checkpoint.
    """
    if trials < 1:
        raise OptionError(f"--trials must be at least 1, not {trials}")
    if retries < 0:
        raise OptionError(f"--retries must be at least 0, not {retries}")
    if save_every is not None:
        interval(save_every)
    check_sampler(search.space, search.sampler)
    with writing(out):
        for folder in ("runs", "output"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    with locked(out):
        clear_unfinished(out)
        earlier = read_search(out)
        if earlier is not None:
            check_same(earlier, search, out)
        else:
            with writing(out / FILE):
                write_text(out / FILE, strict_json.dumps(search.to_json(), indent=1) + "\n")
        study = Study(out, search.space, search.sampler, search.pruner, search.seed)
        trust = trust_local_code and "--trust-local-code" not in search.space.spec_words
        options = ["--trust-local-code"] if trust else []
        options += ["--save-every", save_every] if save_every is not None else []
        return _Tuner(search.space, study, out, trials, executor, retries, options, info).carry_out()


def check_same(earlier: Search, search: Search, out: Path) -> None:
    """Check that a folder holds the search that is to be continued in it.

    Raises:
        RunError: it does not.
    """
    if earlier == search:
        return
    names = [field.name for field in attrs.fields(Search) if field.name not in ("space", "argv")]
    found = [
        f"--{'sampler-seed' if name == 'seed' else name} is {getattr(earlier, name)} there"
        for name in names
        if getattr(earlier, name) != getattr(search, name)
    ]
    if earlier.argv != search.argv or not found:
        found.append(f"its options are: {' '.join(earlier.argv)}")
    if earlier.space.first_tasks != search.space.first_tasks:
        found.append(f"--first-tasks is {earlier.space.first_tasks} there")
    raise RunError(f"{out} holds another search ({'; '.join(found)}); choose another --out")


class _Tuner:
    """The trials of one call, with a thread per concurrent trial; Optuna is used in this thread only."""

    def __init__(
        self,
        space: Space,
        study: Study,
        out: Path,
        trials: int,
        executor: Executor,
        retries: int,
        options: Sequence[str],
        info: Callable[[str], None],
    ) -> None:
        self.space, self.study, self.out, self.wanted = space, study, out, trials
        self.executor, self.options, self.info = executor, options, info
        self.signalled = False
        self.attempts = Attempts(executor, retries, info, lambda: self.signalled)
        self.running: dict[Future[Ended], Trial] = {}
        self.pruned: set[int] = set()
        self.failures = 0
        self.note = ""

    def carry_out(self) -> Outcome:
        before = self.study.trials
        counts = sum(trial.counts for trial in before)
        left = sum(trial.state == "running" for trial in before)
        self.info(f"{counted(self.wanted, 'trial')}: {counts} finished, {left} to resume")
        with handle_signals(Progress().notice) as stop, ThreadPoolExecutor(self.executor.workers) as pool:
            try:
                while True:
                    while not self.signalled and len(self.running) < self.executor.workers:
                        if (trial := self._next()) is None:
                            break
                        self.running[pool.submit(self._execute, trial)] = trial
                    if not self.running:
                        break
                    over, _ = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for future in over:
                        self._finish(self.running.pop(future), future.result())
                    for trial in self.running.values():
                        self._watch(trial)
                    if stop.number is not None and not self.signalled:
                        self.signalled = True
                        self.executor.stop(stop.number)
            except BaseException:
                self.signalled = True
                self.executor.stop(signal.SIGINT)
                raise
        trials = self.study.trials
        if stop.number is not None and any(trial.state == "running" for trial in trials):
            raise Interrupted(self.out, stop.number)
        return Outcome(trials, self.note)

    def _next(self) -> Trial | None:
        """The next trial to execute; None if there is none now."""
        trials = self.study.trials
        counts = sum(trial.counts for trial in trials)
        if counts + self.failures + len(self.running) >= self.wanted:
            return None
        if self.failures >= FAILURES and not any(trial.state == "done" for trial in trials):
            last = next(trial for trial in reversed(trials) if trial.state == "failed")
            self.note = (
                f"ended after {self.failures} failed trials, none of which succeeded. {last.name}: "
                f"{last.reason} ({self.out / 'output' / last.name}.txt). The same command tries others"
            )
            return None
        trial = self.study.next_trial(trial.number for trial in self.running.values())
        if trial is None:
            self.note = f"all {counts + len(self.running)} points of the ranges are tried"
        return trial

    def _execute(self, trial: Trial) -> Ended:
        """Execute a trial, in a thread."""
        folder = self._folder(trial)
        if _has_ended(folder):
            return Ended("done")
        return self.attempts.execute(
            trial.name,
            folder,
            self.out / "output" / f"{trial.name}.txt",
            lambda: self._argv(trial, folder),
            lambda: trial.number in self.pruned,
            f": {format_params(trial.params)}",
        )

    def _argv(self, trial: Trial, folder: RunFolder) -> list[str]:
        """The arguments of ``sidetune-run`` that begin or resume a trial."""
        if (folder.path / "run.json").is_file():
            trusting = [word for word in self.space.spec_words if word == "--trust-local-code"]
            return ["--resume", str(folder.path), *self.options, *trusting]
        if folder.path.is_dir():
            clear(folder.path)
        selecting = ["--first-tasks", str(self.space.first_tasks), "--measure", "val"]
        return [*self.space.words(trial.params), *selecting, "--out", str(folder.path), *self.options]

    def _watch(self, trial: Trial) -> None:
        """Record what a trial has measured so far, and end it if the pruner says so."""
        for tasks, value in _so_far(self._folder(trial)).items():
            if trial.number in self.pruned:
                return
            if self.study.report(trial, tasks, value):
                self.pruned.add(trial.number)

    def _finish(self, trial: Trial, ended: Ended) -> None:
        """Record how a trial has ended, unless it was interrupted."""
        folder = self._folder(trial)
        for tasks, measured in _so_far(folder).items():
            self.study.report(trial, tasks, measured)
        state, value, reason = self._state(folder, trial, ended)
        if state == "running":
            return
        trial = self.study.finish(trial, state, value, reason, _seconds(folder))
        self.failures += state == "failed"
        self.info(self._line(trial))

    def _state(self, folder: RunFolder, trial: Trial, ended: Ended) -> tuple[State, float | None, str]:
        if ended.status == "failed":
            return "failed", None, ended.reason
        if ended.status == "stopped":
            return ("pruned" if trial.number in self.pruned else "running"), None, ""
        try:
            summary = summarise(folder)
            if summary.diverged:
                return "diverged", None, summary.status.partition(": ")[2]
            value = average_accuracy(summary.results)
        except RunError as error:
            return "failed", None, str(error)
        return ("failed", None, "R has gaps") if value is None else ("done", value, "")

    def _line(self, trial: Trial) -> str:
        """How a trial has ended, in a line."""
        trials = self.study.trials
        count = sum(one.state != "running" for one in trials)
        head = f"{trial.state:<8} {trial.name} [{count}/{max(self.wanted, count)}]"
        took = f", {trial.seconds:.0f} s" if trial.seconds is not None else ""
        if trial.state == "done":
            best = best_trial(trials, self.space)
            assert best is not None
            top = "the best so far" if best.number == trial.number else f"best {self._shown(best.value)}"
            return f"{head}: mean {self.space.metric} {self._shown(trial.value)} on val ({top}){took}"
        if trial.state == "pruned":
            tasks, value = max(trial.after.items())
            return f"{head}: {self._shown(value)} after {counted(tasks, 'task')}{took}"
        return f"{head}: {trial.reason}{took}"

    def _shown(self, value: float | None) -> str:
        return format_value(value, in_percent(self.space))

    def _folder(self, trial: Trial) -> RunFolder:
        return RunFolder(self.out / "runs" / trial.name)


def best_trial(trials: Sequence[Trial], space: Space) -> Trial | None:
    """The best of those that are done, the first one of equals; None if there is none."""
    done = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not done:
        return None
    sign = -1 if space.higher_is_better else 1
    return min(done, key=lambda pair: (sign * pair[0], pair[1].number))[1]


def in_percent(space: Space) -> bool:
    """Whether values are shown in percent."""
    return space.metric in ("accuracy", "balanced_accuracy")


def format_params(params: Params) -> str:
    """Values as they are typed, rounded to four digits."""
    return " ".join(
        f"--{name} {f'{value:.4g}' if isinstance(value, float) else as_text(value)}"
        for name, value in params.items()
    )


def _so_far(folder: RunFolder) -> Mapping[int, float]:
    """The mean over the tasks trained so far, by their number, of the rows of R that are complete."""
    if not (folder.path / "run.json").is_file():
        return {}
    try:
        results: Results = read_results(folder)
    except (RunError, KeyError, TypeError, ValueError):  # being written, or damaged, which is reported later
        return {}
    means = {number: mean(row) for number, row in enumerate(results.trained, 1)}
    return {number: value for number, value in means.items() if value is not None}


def _has_ended(folder: RunFolder) -> bool:
    """Whether a run has come to its end, also by divergence."""
    if not (folder.path / "run.json").is_file():
        return False
    reported = (folder.path / "report.md").is_file()  # the last file that a run writes
    return has_diverged(folder.status) or (folder.finished and reported)


def _seconds(folder: RunFolder) -> float | None:
    periods = folder.lines("seconds.jsonl") if (folder.path / "run.json").is_file() else []
    return sum(float(period["seconds"]) for period in periods) if periods else None
