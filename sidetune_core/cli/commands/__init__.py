"""The commands of `sidetune`: one line each here, their modules are imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Literal

import attrs

Group = Literal["look", "run", "use", "publish"]

GROUPS: Mapping[Group, str] = {
    "look": "Look at components and runs",
    "run": "Train",
    "use": "Use trained runs",
    "publish": "Publish, check and write components",
}
"""The groups of commands, in the order of the help."""


@attrs.frozen
class Command:
    """A command of `sidetune`."""

    summary: str
    target: str
    """Its function, as ``module:function`` below `sidetune_core.cli.commands`."""
    group: Group = "look"
    former_flags: Mapping[str, str] = attrs.field(factory=dict)
    """Present flags by former ones."""
    example: str = ""
    """Arguments, for the message that a required one is missing; `RUN` stands for the newest run."""
    composes: bool = False
    """Whether it also takes options of `sidetune-run`."""

    def load(self) -> Callable[..., int]:
        """Its function; the arguments are its parameters."""
        function: Callable[..., int] = resolve_name(f"{__name__}.{self.target}")
        return function


COMMANDS: Mapping[str, Command] = {
    "run": Command("Train on a stream of tasks; the same as sidetune-run.", "run:run", "run"),
    "list": Command("List the installed components.", "plugins:list_plugins", "look"),
    "describe": Command(
        "Show a component and its options.", "plugins:describe", "look", example="learner sidetune"
    ),
    "check": Command("Check that a component implements its interface.", "plugins:check", "publish"),
    "new": Command(
        "Create a package with a component of your own.",
        "plugins:new_package",
        "publish",
        example="learner my-learner",
    ),
    "completion": Command(
        "Print a script for the completion of a shell.", "completion:completion", "look", example="bash"
    ),
    "sweep": Command(
        "Run a grid of components, options and seeds.",
        "sweep:sweep",
        "run",
        former_flags={"--on": "--executor"},
        composes=True,
    ),
    "tune": Command("Search options on the validation split.", "tune:tune", "run", composes=True),
    "record": Command("Record trajectories of an expert.", "record:record", "run", composes=True),
    "play": Command("Play episodes of a trained policy.", "play:play", "use", composes=True),
    "report": Command(
        "Report one run, or compare several.",
        "report:report",
        "look",
        former_flags={"--by": "--group-by", "--pictures": "--images"},
    ),
    "predict": Command(
        "Predict files with the tasks of trained runs.", "predict:predict", "use", composes=True
    ),
    "evaluate": Command(
        "Evaluate a trained run, also on other data.",
        "evaluate:evaluate",
        "use",
        example="RUN",
        composes=True,
    ),
    "export": Command(
        "Write the adapter of a task, its network, or weights.",
        "export:export",
        "publish",
        example="RUN --task TASK",
    ),
    "convert": Command(
        "Write a file of weights as .safetensors.", "convert:convert", "publish", example="weights.pth"
    ),
    "push": Command(
        "Upload an adapter to the Hugging Face Hub.", "push:push", "publish", example="ADAPTER OWNER/NAME"
    ),
    "clean": Command("Make run folders smaller.", "clean:clean_runs", "look"),
    "cache": Command("List or clear downloaded and cached files.", "cache:show_cache", "look"),
    "verify": Command("Check a run folder and its certificate.", "verify:verify_run", "look", example="RUN"),
    "reproduce": Command(
        "Reproduce a claim of the ledger.", "ledger:reproduce", "publish", example="icifar-sidetune-fork"
    ),
    "ledger": Command("Show the results in the ledger.", "ledger:show_ledger", "look"),
}

FORMER_COMMANDS: Mapping[str, str] = {"collect": "record"}
"""Present names of commands by former ones."""
