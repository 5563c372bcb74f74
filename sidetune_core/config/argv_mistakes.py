"""Words that are typed in place of options: of other programs, names without an option, lists of values.

Each is answered with a corrected command (see `argv_unknown`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from sidetune_core.config import registry
from sidetune_core.config.arguments import Argument, split_arguments
from sidetune_core.config.argv_options import GENERAL
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.defaults import OTHER_NAMES as OTHER_COMPONENTS
from sidetune_core.config.kinds import KINDS
from sidetune_core.config.option_tables import TABLES
from sidetune_core.errors import suggest

OTHER_NAMES: Mapping[str, str] = {
    "epochs": "train.epochs",
    "num-epochs": "train.epochs",
    "max-epochs": "train.epochs",
    "n-epochs": "train.epochs",
    "steps": "train.steps",
    "num-steps": "train.steps",
    "max-steps": "train.steps",
    "iterations": "train.steps",
    "lr": "train.lr",
    "learning-rate": "train.lr",
    "batch": "train.batch-size",
    "batch-size": "train.batch-size",
    "bs": "train.batch-size",
    "optim": "train.optimizer",
    "optimizer": "train.optimizer",
    "opt": "train.optimizer",
    "wd": "train.weight-decay",
    "weight-decay": "train.weight-decay",
    "scheduler": "train.schedule",
    "lr-schedule": "train.schedule",
    "device": "device.name",
    "threads": "device.threads",
    "model": "base",
    "backbone": "base",
    "arch": "base",
    "network": "base",
    "method": "learner",
    "strategy": "learner",
    "algorithm": "learner",
    "dataset": "env",
    "data": "env",
    "benchmark": "env",
    "env-id": "env",
    "config": "spec",
    "cfg": "spec",
    "output": "out",
    "output-dir": "out",
    "out-dir": "out",
    "save-dir": "out",
    "logdir": "out",
    "log-dir": "out",
    "run-dir": "out",
    "checkpoint": "resume",
    "n-tasks": "env.num-tasks",
}
"""Present options by words of other programs, without ``--``."""

ONE_DASH: Mapping[str, str] = {"o": "out", "s": "seed", "b": "train.batch-size", "e": "train.epochs"}
"""Present options by letters that other programs use after one dash."""

_LOGS = (
    "a run logs to TensorBoard (RUN/tb) and RUN/metrics.jsonl, and to other loggers by a callback in Python"
)
_GPU = "a GPU is used if there is one; --device.name selects another device"
_KEPT = "a run folder is never overwritten; --out names another"

NEEDLESS: Mapping[str, str] = {
    **dict.fromkeys(("wandb", "mlflow", "tensorboard", "logger"), _LOGS),
    **dict.fromkeys(("gpu", "gpus", "cuda", "use-cuda"), _GPU),
    **dict.fromkeys(("force", "overwrite"), _KEPT),
    "verbose": "progress is printed unless --quiet is set",
}
"""Why there is no such option, by words of other programs: they are left out."""

MAX_LISTED_SEEDS = 1000
"""Largest number N in ``--seeds N`` that is read as a number of seeds."""


@attrs.frozen
class Mistake:
    """A word that is no argument, and what was meant."""

    typed: str
    answer: str
    """Such as ``Did you mean '--train.lr'?``."""
    instead: tuple[Argument, ...]
    """The argument in its place, or several to choose from; none where it is left out."""
    sweeps: bool = False
    """Whether it gives several values, which are several runs."""


def find_mistake(argument: Argument) -> Mistake | None:
    """The mistake in an argument that shows before components are loaded; None if there is none."""
    if not argument.typed:
        return None
    name, values = argument.name, argument.values
    if not argument.typed.startswith("--") and name != "-h":
        return _one_dash(argument)
    if name in NEEDLESS:
        number = values[0] if values and re.fullmatch(r"\d", values[0]) and name != "wandb" else ""
        if number and name in ("gpu", "cuda"):
            return _renamed(argument, "device.name", (f"cuda:{number}",))
        return Mistake(argument.typed, f"There is none: {NEEDLESS[name]}.", ())
    if name == "cpu":
        return _renamed(argument, "device.name", ("cpu",))
    if name in ("fp16", "amp", "bf16"):
        return _renamed(argument, "device.precision", ("bf16",))
    if name == "seeds":
        count = values[0] if len(values) == 1 and values[0].isdecimal() else ""
        if count and 1 < int(count) <= MAX_LISTED_SEEDS:
            values = (f"0..{int(count) - 1}",)
        return _listed(Argument("--seed", values), argument.typed)
    if name in OTHER_NAMES:
        return _renamed(argument, OTHER_NAMES[name], values)
    if name == "seed" and (len(values) > 1 or any(_is_list(value) for value in values)):
        return _listed(argument, shlex.join(argument.words))
    if name in DEFAULTS and (any("," in value for value in values) or _are_components(name, values)):
        return _listed(argument, shlex.join(argument.words))
    return _other_component(argument) if name in DEFAULTS and len(values) == 1 else None


def _other_component(argument: Argument) -> Mistake | None:
    """The mistake of a name of the field in place of a component, such as ``--base resnet18``."""
    slot, (value,) = argument.name, argument.values
    kind = next(kind for kind in KINDS if kind.name == slot)
    if value in {plugin.name for plugin in registry.installed(kind)}:
        return None
    for pattern, meant in OTHER_COMPONENTS.get(slot, ()):
        if re.fullmatch(pattern, value, re.IGNORECASE):
            words = [word.format(value) for word in meant.split()]
            instead = split_arguments(words)
            return Mistake(shlex.join(argument.words), f"Did you mean '{shlex.join(words)}'?", tuple(instead))
    return None


def _one_dash(argument: Argument) -> Mistake | None:
    """The mistake of an option with one dash, such as ``-lr`` or ``-o``; None if its name is unknown."""
    name = argument.name.removeprefix("-")
    name = ONE_DASH.get(name, name)
    full = attrs.evolve(argument, typed=f"--{name}")
    if mistake := find_mistake(full):
        return attrs.evolve(mistake, typed=argument.typed)
    is_known = name in (*DEFAULTS, *GENERAL) or name.partition(".")[0] in (*DEFAULTS, *TABLES)
    if name in ONE_DASH.values() or is_known:
        return _renamed(argument, name, argument.values)
    return None


def hint_for(argument: Argument, known: Sequence[str]) -> str:
    """``" Did you mean '--train.lr'?"`` for a word of another program, or for one close to a known one."""
    present = OTHER_NAMES.get(argument.name)
    return f" Did you mean '--{present}'?" if present else suggest(argument.typed, known)


def meant_by(word: str) -> Mistake | None:
    """What a word without an option means; None if that is unknown."""
    name, equals, value = word.partition("=")
    slot = name.lstrip("-").partition(".")[0]
    if equals and (slot in DEFAULTS or slot in TABLES or name == "seed"):
        return _renamed(Argument(word), name, (value,), word)
    path = Path(word)
    if path.suffix in (".toml", ".json", ".yaml", ".yml") and path.is_file():
        return _renamed(Argument(word), "spec", (word,), word)
    if (path / "run.json").is_file():
        return _renamed(Argument(word), "resume", (word,), word)
    kinds = [kind.name for kind in KINDS if word in {plugin.name for plugin in registry.installed(kind)}]
    if not kinds:
        return None
    instead = tuple(Argument(f"--{kind}", (word,)) for kind in kinds)
    meant = " or ".join(f"'--{kind} {word}'" for kind in kinds)
    return Mistake(word, f"Did you mean {meant}?", instead)


def several_values(argument: Argument) -> Mistake:
    """The mistake of an option whose value is a list of numbers."""
    return _listed(argument, shlex.join(argument.words))


def is_list_of_numbers(text: str) -> bool:
    """Whether a value is a list or a range of numbers: ``1e-3,5e-3``, ``0..4``."""
    number = r"-?\d+(\.\d+)?(e-?\d+)?"
    return re.fullmatch(rf"{number}(,{number})+|-?\d+\.\.-?\d+", text) is not None


def _are_components(slot: str, values: Sequence[str]) -> bool:
    """Whether these are several names of components, and not one with another word after it."""
    kind = next(kind for kind in KINDS if kind.name == slot)
    installed = {plugin.name for plugin in registry.installed(kind)}
    return len(values) > 1 and all(value in installed or ":" in value for value in values)


def _is_list(text: str) -> bool:
    return is_list_of_numbers(text) or "," in text


def _renamed(argument: Argument, name: str, values: Sequence[str], typed: str = "") -> Mistake:
    shown = f"--{name}" if tuple(values) == argument.values else " ".join([f"--{name}", *values])
    return Mistake(
        typed or argument.typed, f"Did you mean '{shown}'?", (Argument(f"--{name}", tuple(values)),)
    )


def _listed(argument: Argument, typed: str) -> Mistake:
    values = argument.values
    joined = (",".join(values),) if len(values) > 1 else values
    answer = "Several values are several runs, which sidetune sweep makes."
    return Mistake(typed, answer, (Argument(argument.typed, joined),), sweeps=True)
