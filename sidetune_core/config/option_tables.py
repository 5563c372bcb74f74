"""The options of a run that belong to no component: training, the cache of features, the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

from sidetune_core.config.options import Renamed, at_least, at_most, more_than, option, respell, warn_former
from sidetune_core.errors import OptionError


@attrs.frozen
class TrainOptions:
    """Optimisation of every task (``--train.*``). An env's recipe replaces these defaults, the user replaces
    both."""

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "batch": Renamed("batch-size"),
        "clip": Renamed("grad-clip"),
        "eps": Renamed("adam-eps"),
    }
    steps: int = option(200, "optimiser steps per task", at_least(0))
    epochs: float | None = option(None, "epochs per task; replaces 'steps' where both are set", at_least(0))
    batch_size: int = option(
        128, "examples per batch, at most all that a task has", at_least(1), at_most(2**24)
    )
    accumulate: int = option(1, "batches whose gradients are averaged for one optimiser step", at_least(1))
    lr: float = option(1e-3, "learning rate; the peak where a schedule is set", at_least(0))
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser, a new one for every task")
    adam_eps: float = option(
        1e-8, "epsilon of adam and adamw, added to the root of the second moment", more_than(0)
    )
    momentum: float = option(0.9, "Nesterov momentum of sgd", at_least(0), at_most(1))
    weight_decay: float = option(0.0, "weight decay; mergers have none", at_least(0))
    schedule: Literal["constant", "cosine", "one-cycle", "linear"] = option(
        "constant",
        "learning rate schedule of a task: constant, cosine decay to zero, or linear warm-up followed by "
        "cosine ('one-cycle') or linear ('linear') decay to zero",
    )
    warmup: float = option(
        0.15, "fraction of steps used for warm-up by 'one-cycle' and 'linear'", at_least(0), at_most(1)
    )
    grad_clip: float | None = option(
        1.0, "maximum gradient norm of an optimiser step; None for no clipping", more_than(0)
    )
    evaluate: Literal["changed", "all"] = option(
        "changed",
        "earlier tasks that are evaluated after each task: those that read something that training changed, "
        "and one other, whose values must be the same bit for bit; or all of them",
    )
    eval_every: int | None = option(
        None,
        "steps between two evaluations within a task, of the tasks trained so far and the present one; None "
        "evaluates between tasks only",
        at_least(1),
    )
    eval_split: Literal["auto", "val", "test"] = option(
        "auto", "split of the evaluations within a task; auto is val where a task has one, otherwise test"
    )
    eval_examples: int | None = option(
        None,
        "examples of each evaluation within a task, the same each time; None for the whole split",
        at_least(1),
    )
    patience: int | None = option(
        None,
        "stop training a task after this many evaluations on val without a better value; they are every "
        "--train.eval-every steps, or once per epoch",
        at_least(1),
    )
    select: Literal["last", "best"] = option(
        "last",
        "weights that a task ends with: those after the last step, or those of the best evaluation on val",
    )
    start_from: str | None = option(
        None,
        "id of an earlier task, with whose side, merger and head a task begins, and with its statistics of "
        "observations; None for the initialisation of the components",
    )

    @property
    def selects(self) -> bool:
        """Whether evaluations on val decide what a task ends with."""
        return self.patience is not None or self.select == "best"


WITHIN_TASK = ("eval_every", "eval_split", "eval_examples", "patience", "select", "start_from")
"""Training options that a spec has only where they are set, so that those without stay as they were."""

MEASURES = ("evaluate", "eval_every", "eval_split", "eval_examples")
"""Training options that decide what is measured; without `TrainOptions.selects`, they change no result."""


@attrs.frozen
class CacheOptions:
    """The cache of a frozen base's features (``--cache.*``)."""

    mode: Literal["memory", "disk", "off"] = option(
        "memory",
        "cache a frozen base's outputs on inputs that do not change: in memory for this run, on disk for "
        "later runs too, or not at all",
    )
    limit: float = option(
        2.0, "maximum size of the cache in GiB; outputs beyond it are re-computed", more_than(0)
    )
    dir: Path = option(
        Path("~/.cache/sidetune/store"),
        "folder of the cache on disk; one below ~/.cache/sidetune is below $SIDETUNE_HOME, if that is set",
    )


@attrs.frozen
class DeviceOptions:
    """Device, precision, memory layout and threads (``--device.*``)."""

    name: str = option("auto", "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto",
        "arithmetic of all networks: auto is bf16 autocast where the hardware has bf16 units, on a CPU only "
        "for a base, and for trained networks, that are large enough to be faster in it; otherwise fp32; "
        "weights stay fp32",
    )
    base_precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "arithmetic of a frozen base; auto is that of --device.precision, if this is not auto too"
    )
    channels_last: bool | None = option(
        None, "channels-last layout of images and convolutions; None enables it where it is faster"
    )
    threads: int | None = option(
        None,
        "threads of an operation on the CPU; None is OMP_NUM_THREADS if set, otherwise as many as there are "
        "processors that other processes leave, adapted during the run",
        at_least(1),
        at_most(1024),
    )


TABLES: Mapping[str, type[Any]] = {"train": TrainOptions, "cache": CacheOptions, "device": DeviceOptions}
"""The option tables of a spec that belong to no component."""

MOVED_OPTIONS: Mapping[str, str] = {
    "train.device": "device.name",
    "train.precision": "device.precision",
    "train.channels-last": "device.channels-last",
    "train.store": "cache.mode",
    "train.store-limit": "cache.limit",
    "train.store-dir": "cache.dir",
}
"""Present names of options that moved from one table to another, by former name."""

Tables = dict[str, dict[str, Any]]
"""Options by table and name, with ``_``."""


def respell_tables(
    tables: Mapping[str, Mapping[str, Any]], owner: str = "", recorded: bool = False
) -> Tables:
    """The option tables under their present names.

    Args:
        tables: 'train', 'cache', 'device'; a name such as ``device.precision`` is an option of that table
            wherever it is.
        owner: who set them, for warnings: ``env 'gym': recipe``.
        recorded: see `structure`.

    Raises:
        OptionError: an option is set by its former and by its present name.
    """
    prefix = f"{owner}: " if owner else ""
    respelled: Tables = {table: {} for table in TABLES}
    moved: list[tuple[str, str, Any]] = []
    for table, values in tables.items():
        for key, value in values.items():
            name = key.replace("_", "-")
            former = f"{table}.{name}"
            if former in MOVED_OPTIONS:
                moved.append((former, MOVED_OPTIONS[former], value))
            elif name.partition(".")[0] in TABLES and "." in name:
                moved.append((name, name, value))
            else:
                respelled[table][key] = value
    for table in respelled:
        respelled[table] = respell(TABLES[table], respelled[table], f"{prefix}{table}", recorded)
    for former, present, value in moved:
        table, _, name = present.replace("-", "_").partition(".")
        if name in respelled[table] and respelled[table][name] != value:
            raise OptionError(f"{prefix}'{former}' and '{present}' are the same option; leave out '{former}'")
        if former != present and not recorded:
            warn_former(f"{prefix}{former}", present)
        respelled[table][name] = value
    return respelled
