"""The commands of `sidetune`: one line each here, their modules are imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name

import attrs


@attrs.frozen
class Command:
    """A command of `sidetune`."""

    summary: str
    target: str
    """Its function, as ``module:function`` below `sidetune_core.cli.commands`."""
    former_flags: Mapping[str, str] = attrs.field(factory=dict)
    """Present flags by former ones."""
    composes: bool = False
    """Whether it also takes options of `sidetune-run`."""

    def load(self) -> Callable[..., int]:
        """Its function; the arguments are its parameters."""
        function: Callable[..., int] = resolve_name(f"{__name__}.{self.target}")
        return function


COMMANDS: Mapping[str, Command] = {
    "run": Command("Train on a stream of tasks; the same as sidetune-run.", "run:run"),
    "list": Command("List the installed components.", "plugins:list_plugins"),
    "describe": Command("Show a component and its options.", "plugins:describe"),
    "check": Command("Check that a component implements its interface.", "plugins:check"),
    "new": Command("Create a package with a component of your own.", "plugins:new_package"),
    "sweep": Command(
        "Run a grid of components, options and seeds.",
        "sweep:sweep",
        former_flags={"--on": "--executor"},
        composes=True,
    ),
    "tune": Command("Search options on the validation split.", "tune:tune", composes=True),
    "record": Command("Record trajectories of an expert.", "record:record", composes=True),
    "play": Command("Play episodes of a trained policy.", "play:play", composes=True),
    "report": Command(
        "Report one run, or compare several.",
        "runs:report",
        former_flags={"--by": "--group-by", "--pictures": "--images"},
    ),
    "predict": Command("Predict files with the tasks of trained runs.", "predict:predict", composes=True),
    "evaluate": Command("Evaluate a trained run, also on other data.", "evaluate:evaluate", composes=True),
    "export": Command(
        "Write the adapter of a task, its network, or the weights of a component.", "export:export"
    ),
    "convert": Command(
        "Write a file of weights as .safetensors, without running its code.", "convert:convert"
    ),
    "push": Command("Upload an adapter to the Hugging Face Hub.", "push:push"),
    "clean": Command("Make run folders smaller.", "clean:clean_runs"),
    "verify": Command(
        "Check that everything in a run folder agrees, the certificate included.", "runs:verify_run"
    ),
    "reproduce": Command("Reproduce a claim of the ledger.", "ledger:reproduce"),
    "ledger": Command("Show the results in the ledger.", "ledger:show_ledger"),
}

FORMER_COMMANDS: Mapping[str, str] = {"collect": "record"}
"""Present names of commands by former ones."""
