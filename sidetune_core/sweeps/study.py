"""The trials of a search, in Optuna's journal storage in its folder, and what to try next.

Trial n is a function of the space, the sampler's seed, n, and, for `tpe`, of the trials before it: an
interrupted search continues with the trials that it would have had.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from sidetune_core.errors import OptionError, PluginError, RunError
from sidetune_core.storage.atomic import writing
from sidetune_core.sweeps.ranges import Axis, Choices, Fixed, Value
from sidetune_core.sweeps.space import Params, Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Sampler = Literal["random", "tpe", "grid"]
Pruner = Literal["none", "halving"]
State = Literal["running", "done", "pruned", "diverged", "failed"]

JOURNAL = "journal.log"
"""File of Optuna's storage; ``optuna-dashboard`` reads it."""
STARTUP = 5
"""Random trials before `tpe` models the results."""
FEWEST_FOR_IMPORTANCE = 4
"""Finished trials, below which no importance is computed."""
REDUCTION = 2
"""Successive halving: after 1, 2, 4, … tasks, the better half of the trials continues."""

FIXED_PARAMS = "fixed_params"
"""Optuna's attribute with the params of a trial that was enqueued."""

_MAX_LISTED = 10_000
"""Points of a finite space that are listed to find one that was not tried."""
_TRIES = 20
"""Samples that may be points which were tried before."""


@attrs.frozen
class Trial:
    """A trial as it is recorded."""

    number: int
    state: State
    params: Params
    value: float | None
    """The mean of the metric over the tasks on split val after the last of them; None unless it is done."""
    after: Mapping[int, float]
    """The same after the first k tasks, by k."""
    reason: str = ""
    """Why it diverged or failed."""
    seconds: float | None = None

    @property
    def name(self) -> str:
        """That of its run folder."""
        return f"trial-{self.number:03d}"

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that were asked for; one that failed because of an error is not."""
        return self.state in ("done", "pruned", "diverged")


class Study:
    """The trials of a search. One process at a time may use it.

    Args:
        out: folder of the search.
        space: what is searched.
        sampler: chooses the params of the next trial.
        pruner: ends trials early.
        seed: of the sampler.

    Raises:
        PluginError: Optuna is not installed.
        RunError: the storage is damaged.
        WriteError: the folder cannot be written.
    """

    def __init__(self, out: Path, space: Space, sampler: Sampler, pruner: Pruner, seed: int) -> None:
        self._optuna = import_optuna()
        self._space, self._sampler, self._seed, self._pruner = space, sampler, seed, pruner
        halving = self._optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        with writing(out / JOURNAL):
            _repair(out / JOURNAL)
            self._study = self._open(out / JOURNAL, halving if pruner == "halving" else None)

    def _open(self, path: Path, pruner: Any) -> optuna.Study:
        journal = self._optuna.storages.journal
        try:
            storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))
            study: optuna.Study = self._optuna.create_study(
                storage=storage,
                study_name="search",
                direction="maximize",
                pruner=pruner or self._optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            return study
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} is damaged ({error!r}): restore it from a copy, or choose another --out"
            ) from error

    @property
    def trials(self) -> list[Trial]:
        """All trials, in order."""
        return [self._trial(frozen) for frozen in self._frozen()]

    def next_trial(self, among: Iterable[int] = ()) -> Trial | None:
        """Begin a trial, or take up one that was interrupted; None if every point of the space was tried.

        Args:
            among: numbers of the trials that are running in this process.
        """
        frozen, mine = self._frozen(), set(among)
        left = [trial for trial in frozen if not trial.state.is_finished() and trial.number not in mine]
        if left:
            return self._taken_up(left[0])
        params = self._propose(frozen)
        if params is None:
            return None
        self._study.enqueue_trial(dict(params))
        return self._taken_up(self._frozen()[-1])

    def _taken_up(self, frozen: FrozenTrial) -> Trial:
        """A trial that is running, with its params; the process that began it may have been killed before it
        had recorded all of these."""
        if frozen.state == self._optuna.trial.TrialState.WAITING:
            self._study.ask()
        trial = self._trial(self._frozen()[frozen.number])
        handle = self._handle(trial)
        for name, axis in self._axes(trial.params).items():
            _suggest(handle, name, axis)
        return trial

    def report(self, trial: Trial, tasks: int, value: float) -> bool:
        """Record the value after the first `tasks` tasks, unless it is; returns whether to end the trial."""
        handle = self._handle(trial)
        if tasks not in self._frozen()[trial.number].intermediate_values:
            handle.report(self._signed(value), tasks)
        return self._pruner != "none" and tasks < self._space.first_tasks and handle.should_prune()

    def finish(
        self, trial: Trial, state: State, value: float | None, reason: str, seconds: float | None
    ) -> Trial:
        """Record how a trial has ended."""
        handle = self._handle(trial)
        for key, content in (("state", state), ("value", value), ("reason", reason), ("seconds", seconds)):
            handle.set_user_attr(key, content)
        states = self._optuna.trial.TrialState
        ended = {"done": states.COMPLETE, "pruned": states.PRUNED}.get(state, states.FAIL)
        signed = self._signed(value) if value is not None and state == "done" else None
        self._study.tell(handle, signed, state=ended)
        return self._trial(self._study.trials[trial.number])

    def importance(self) -> Mapping[str, float] | str:
        """The fraction of the variance of the results that each option explains by itself or with others
        (fANOVA: Hutter et al. 2014), the most important first; or why it cannot be computed."""
        done = [trial for trial in self.trials if trial.state == "done"]
        names = [name for name in self._space.names if all(name in trial.params for trial in done)]
        varied = [name for name in names if len({trial.params[name] for trial in done}) > 1]
        if len(done) < FEWEST_FOR_IMPORTANCE:
            return f"{len(done)} finished trials; it takes {FEWEST_FOR_IMPORTANCE}"
        if len({trial.value for trial in done}) < 2:
            return "all finished trials have the same result"
        if not varied:
            return "no option is used by all trials and has several values"
        evaluator = self._optuna.importance.FanovaImportanceEvaluator(seed=self._seed % 2**32)
        found = self._optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=varied)
        return {name: float(value) for name, value in found.items()}

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _handle(self, trial: Trial) -> optuna.trial.Trial:
        number = self._frozen()[trial.number]._trial_id
        handle: optuna.trial.Trial = self._optuna.trial.Trial(self._study, number)
        return handle

    def _signed(self, value: float) -> float:
        """The value that Optuna maximises."""
        return value if self._space.higher_is_better else -value

    def _trial(self, frozen: FrozenTrial) -> Trial:
        attributes = frozen.user_attrs
        finished = frozen.state.is_finished()
        sign = 1 if self._space.higher_is_better else -1
        return Trial(
            frozen.number,
            attributes.get("state", "failed") if finished else "running",
            _known({**frozen.params, **frozen.system_attrs.get(FIXED_PARAMS, {})}, self._space),
            attributes.get("value") if finished else None,
            {step: sign * value for step, value in sorted(frozen.intermediate_values.items())},
            attributes.get("reason", ""),
            attributes.get("seconds"),
        )

    def _propose(self, frozen: Sequence[FrozenTrial]) -> dict[str, Value] | None:
        """The params of the next trial, which no trial has had that counts or is running."""
        tried = {
            _key(trial.params)
            for trial in map(self._trial, frozen)
            if trial.counts or trial.state == "running"
        }
        number = len(frozen)
        if self._sampler == "grid":
            return next((point for point in self._space.points() if _key(point) not in tried), None)
        for attempt in range(_TRIES):
            params = self._sample(frozen, _seed_of(self._seed, number, attempt))
            if _key(params) not in tried:
                return params
        if self._space.size() > _MAX_LISTED:
            return params
        left = [point for point in self._space.points() if _key(point) not in tried]
        return random.Random(_seed_of(self._seed, number, _TRIES)).choice(left) if left else None

    def _sample(self, frozen: Sequence[FrozenTrial], seed: int) -> dict[str, Value]:
        """One sample, of a copy of the study in memory: the storage holds accepted trials only."""
        samplers = self._optuna.samplers
        sampler = (
            samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
            if self._sampler == "tpe"
            else samplers.RandomSampler(seed=seed)
        )
        copy = self._optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(frozen)
        trial = copy.ask()
        params: dict[str, Value] = {}
        for slot, names in self._space.choosers.items():
            params[slot] = _suggest(trial, slot, Choices(names))
        for name, axis in self._space.combination(params).searched.items():
            params[name] = _suggest(trial, name, axis)
        return params

    def _axes(self, params: Params) -> dict[str, Axis]:
        """What is searched with the components of some params."""
        axes: dict[str, Axis] = {slot: Choices(names) for slot, names in self._space.choosers.items()}
        return axes | dict(self._space.combination(params).searched)


def import_optuna() -> Any:
    """The module ``optuna``, silent.

    Raises:
        PluginError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise PluginError("sidetune tune needs 'optuna': pip install 'sidetune[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def check_sampler(space: Space, sampler: Sampler) -> None:
    """Check that a space has a grid where one is asked for.

    Raises:
        OptionError: it has not.
    """
    if sampler == "grid":
        next(space.points())
        if space.size() > _MAX_LISTED:
            raise OptionError(
                f"the grid has {space.size():,.0f} points, more than {_MAX_LISTED:,}; choose --sampler random"
            )


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> Value:
    assert not isinstance(axis, Fixed)
    if isinstance(axis, Choices):
        return str(trial.suggest_categorical(name, axis.values))
    if axis.whole:
        return trial.suggest_int(name, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(name, axis.low, axis.high, log=axis.log)


def _known(params: Mapping[str, Any], space: Space) -> Params:
    """The params in the order of the command line."""
    return {name: params[name] for name in space.names if name in params}


def _seed_of(seed: int, number: int, attempt: int) -> int:
    """The seed of a sampler for one sample (`seeding`, which does the same for runs, imports torch)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/trial/{number}/{attempt}".encode()).digest()[:4])


def _key(params: Params) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


def _repair(path: Path) -> None:
    """Remove what a killed process has left: an incomplete last line, and Optuna's own lock. The folder of
    the search is locked, so no other process is writing."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
