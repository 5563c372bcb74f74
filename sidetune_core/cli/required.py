"""Required arguments of a command that were not given."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sidetune_core.cli.commands import Command
from sidetune_core.errors import OptionError
from sidetune_core.storage.new_run import RUNS
from sidetune_core.storage.run_search import runs_below


def check_required(name: str, command: Command, function: Callable[..., int], words: Sequence[str]) -> None:
    """Check that there are as many arguments as a command needs.

    Args:
        name: of the command.
        command: the command.
        function: that runs it.
        words: the arguments; what follows an option that takes a value is the value.

    Raises:
        OptionError: some are missing; it has an example.
    """
    parameters = inspect.signature(function).parameters.values()
    required = [one.name for one in parameters if _is_positional(one) and one.default is one.empty]
    missing = required[len(_arguments(list(parameters), words)) :]
    if missing and command.example:
        example = shlex.join(["sidetune", name, *map(_filled, command.example.split())])
        raise OptionError(f"no {' and no '.join(missing)} given: {example}")


def _arguments(parameters: Sequence[inspect.Parameter], words: Sequence[str]) -> list[str]:
    """The words that are neither options nor their values."""
    valued = {f"--{one.name}" for one in parameters if not _is_positional(one) and one.annotation != "Switch"}
    options = [word.replace("-", "_").replace("__", "--", 1) for word in words]
    return [
        word
        for index, word in enumerate(words)
        if not word.startswith("-") and (not index or options[index - 1] not in valued)
    ]


def _is_positional(parameter: inspect.Parameter) -> bool:
    return str(parameter.annotation).startswith("Positional[")


def _filled(word: str) -> str:
    """An argument of an example; the newest run below ``runs`` for ``RUN``."""
    if word != "RUN":
        return word
    runs = runs_below(Path(RUNS))
    return str(max(runs, key=lambda run: (run / "run.json").stat().st_mtime)) if runs else word
