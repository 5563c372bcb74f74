"""Training of an assembled job in its run folder, from the latest checkpoint to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from sidetune_core.assembly.cards import make_card, write_cards
from sidetune_core.config.given import unwritten
from sidetune_core.errors import WriteError
from sidetune_core.interfaces.capabilities import HasSummary
from sidetune_core.interfaces.networks import Base
from sidetune_core.io.cache_folders import cache_path, in_use
from sidetune_core.io.printable import counted
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.data_file import add_data
from sidetune_core.storage.run_files import CARDS, DATA
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.energy import EnergyMeter
from sidetune_core.system.signals import handle_signals
from sidetune_core.system.threads import Threads
from sidetune_core.training.by_products import ByProducts
from sidetune_core.training.callbacks import Callbacks
from sidetune_core.training.context import Context
from sidetune_core.training.execution import Execution
from sidetune_core.training.finished_run import Run
from sidetune_core.training.job import Job, make_cache
from sidetune_core.training.loop import learn
from sidetune_core.training.memo import Memo
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.run_recorder import RunRecorder
from sidetune_core.training.run_status import keep_status
from sidetune_core.training.tensorboard_files import tensorboard
from sidetune_core.training.workers.side_by_side import side_by_side


def train_job(job: Job, folder: RunFolder, how: Execution) -> Run:
    """Train from the latest checkpoint of the folder, or from the start, to the end."""
    clock = Clock(folder, job.machine.peak_memory, EnergyMeter())
    cache = job.resolved.cache
    by_products = ByProducts(lambda text: _warn(job, folder, f"warning: {text}"))
    with (
        keep_status(job, folder, clock, by_products, how.threads),
        in_use(cache_path(cache.dir)) if cache.mode == "disk" else nullcontext(),
        handle_signals(job.progress.notice) as stop,
        _recorder(job, folder, clock, by_products, how) as recorder,
        side_by_side(job, how.workers) as team,
    ):
        for line in (
            str(job.resolved),
            *(job.fit.lines(job.task_cost) if job.fit is not None else ()),
            *_object_lines(job),
        ):
            job.progress.info(line)
        where = f"{team}, {job.where}" if team is not None else job.where
        text = f"{counted(len(job.tasks), 'task')} on {where}, {how.threads} → {folder.path}"
        job.progress.info(text)
        split = job.selection.measure
        if chosen := str(job.selection):
            job.progress.info(f"{chosen}; no other split is evaluated" if split != "test" else chosen)
        for note in job.notes if job.group.is_main else ():
            _warn(job, folder, note)
        context = Context(
            options=job.resolved.train,
            seed=job.resolved.seed,
            machine=job.machine,
            group=job.group,
            cache=make_cache(job, team.shared_features if team is not None else None),
            stop=stop,
            save_every=how.save_every,
            threads=how.threads if job.machine.device.type == "cpu" else Threads(how.threads.number),
            selection=job.selection,
        )
        _write_cards(job, folder, by_products)
        _write_data(job, folder, by_products)
        make_memo = job.extended_memo or (lambda folder: Memo(folder, job.identity, split=split))
        learn(job.learner, job.tasks, context, recorder, make_memo(folder), team)
        recorder.draw_results()
        recorder.report_missing()
    return Run(folder, job.learner, job.tasks, job.machine, job.group.is_main)


def _object_lines(job: Job) -> list[str]:
    """What the run has of Python's objects, and what was found in them."""
    summaries = [
        f"{job.resolved.components['base'].owner}: {module.summary()}"
        for module in job.learner.modules()
        if isinstance(module, Base) and isinstance(module, HasSummary)
    ]
    return [line for line in (*summaries[:1], unwritten(job.resolved)) if line]


def _write_cards(job: Job, folder: RunFolder, by_products: ByProducts) -> None:
    path = folder.path / CARDS
    if not job.group.is_main:
        return
    try:
        cards = [
            make_card(task, origin.resolved, origin.data)
            for task in job.tasks
            if (origin := job.origins.get(task.id)) is not None
        ]
    except ValueError as error:
        by_products.leave_out(path, error)
        return
    with by_products.optional(path):
        trained = max(folder.boundaries, default=0)
        write_cards(folder, cards, [task.id for task in job.tasks[:trained]])


def _write_data(job: Job, folder: RunFolder, by_products: ByProducts) -> None:
    """Add to ``data.json`` what the run reads now, unless all tasks are trained."""
    if job.group.is_main and max(folder.boundaries, default=0) < len(job.tasks):
        with by_products.optional(folder.path / DATA):
            add_data(folder, job.data)


def _warn(job: Job, folder: RunFolder, text: str) -> None:
    """Print a line, even when quiet, and log it."""
    job.progress.warning(text)
    with suppress(WriteError):  # `keep_status` reports it
        folder.log(text)


@contextmanager
def _recorder(
    job: Job, folder: RunFolder, clock: Clock, by_products: ByProducts, how: Execution
) -> Iterator[Recorder]:
    """The recorder of this process."""
    if not job.group.is_main:
        yield Recorder(folder)
        return
    with tensorboard(folder) as board:
        callbacks = Callbacks(folder.path, how.callbacks, lambda text: _warn(job, folder, f"warning: {text}"))
        yield RunRecorder(folder, job.progress, clock, board, job.identity, by_products, how.keep, callbacks)
