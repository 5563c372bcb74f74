"""The command line: `sidetune-run` trains, `sidetune` has the other commands. Torch is imported only where it
is used."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from sidetune_core import __version__
from sidetune_core.cli.commands import COMMANDS, FORMER_COMMANDS, GROUPS, Command
from sidetune_core.cli.required import check_required
from sidetune_core.config.package_metadata import damaged_metadata_skipped
from sidetune_core.errors import (
    Diverged,
    EndedElsewhere,
    Interrupted,
    OptionError,
    SidetuneError,
    UntrustedCode,
    suggest,
)
from sidetune_core.io.printable import colours_allowed, escaped_output, indented, one_line
from sidetune_core.system.shortage import describe_shortage

HELP = ("--help", "-h")

OTHER_COMMANDS = {
    "train": "run",
    "fit": "run",
    "test": "evaluate",
    "eval": "evaluate",
    "infer": "predict",
    "compare": "report",
    "search": "tune",
    "ls": "list",
    "components": "list",
}
"""Commands by words of other programs."""


def main_run(argv: Sequence[str] | None = None) -> int:
    """``sidetune-run``; returns the exit status."""
    words = _with_homes(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(words), "--debug" in words, ["sidetune-run", *words])


def main(argv: Sequence[str] | None = None, typed: Sequence[str] | None = None) -> int:
    """``sidetune``; returns the exit status.

    Args:
        argv: the arguments; None for those of the process.
        typed: the command line of the user, where that is another.
    """
    words = _with_homes(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    command = typed if typed is not None else ["sidetune", *words]
    return _guarded(lambda: _dispatch([word for word in words if word != "--debug"]), debug, command)


def _with_homes(argv: Sequence[str]) -> list[str]:
    """The words with ``~`` expanded where a shell leaves it: in quotes, and after ``=``."""
    home = re.compile(r"(^|(?<==))~(?=/|$)")
    return [home.sub(lambda _: os.path.expanduser("~"), word, count=1) for word in argv]


def _run(argv: list[str]) -> int:
    if "--version" in argv:
        return _print_versions()
    from sidetune_core.cli.commands.run import run

    return run(argv)


def _dispatch(argv: list[str]) -> int:
    """Run a command of `sidetune` with its arguments."""
    if not argv or argv[0] in HELP:
        return _print_commands()
    name, *words = argv
    if name == "help":
        return _dispatch([*words, "--help"])
    if name == "--version":
        return _print_versions()
    if name in FORMER_COMMANDS:
        _warn_former(f"sidetune {name}", f"sidetune {FORMER_COMMANDS[name]}")
        name = FORMER_COMMANDS[name]
    if name not in COMMANDS:
        hint = suggest(OTHER_COMMANDS.get(name, name), COMMANDS, FORMER_COMMANDS)
        if name.startswith("--"):
            hint = f" To train: {shlex.join(['sidetune', 'run', *argv])}."
        raise OptionError(f"sidetune has no command '{name}'.{hint} Commands: {', '.join(COMMANDS)}")
    if name == "run":
        return _run(words)
    import tyro

    command = COMMANDS[name]
    function = command.load()
    words = _with_present_flags(command, words)
    short = [word for word in words if re.match(r"-[^\W\d]", word) and word != "-h"]
    if short and not command.composes:
        raise OptionError(f"sidetune {name} has no option '{short[0]}'. See sidetune {name} --help")
    if command.composes:
        from sidetune_core.cli.commands.shared import own_options_first

        words = own_options_first(function, words)
    if not set(HELP) & set(words):
        check_required(name, command, function, words)
    with colours_allowed():  # of its help
        chosen: Callable[[], int] = tyro.cli(_deferred(function), prog=f"sidetune {name}", args=words)
    return chosen()


def _deferred(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """A function with the same parameters that only binds them."""

    @functools.wraps(function)
    def bind(*arguments: Any, **options: Any) -> Callable[[], int]:
        return lambda: function(*arguments, **options)

    return bind


def _with_present_flags(command: Command, words: Sequence[str]) -> list[str]:
    """The arguments of a command with former flags replaced."""
    present: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in command.former_flags:
            _warn_former(flag, command.former_flags[flag])
            flag = command.former_flags[flag]
        present.append(f"{flag}{equals}{value}")
    return present


def _warn_former(former: str, present: str) -> None:
    from sidetune_core.config.options import warn_former

    warn_former(former, present)


def _print_commands() -> int:
    print("usage: sidetune COMMAND …\n\nTrain light side networks, and look at components and runs.")
    for group, title in GROUPS.items():
        print(f"\n{title}:")
        for name, command in COMMANDS.items():
            if command.group == group:
                print(f"  {name:<11}{command.summary}")
    print("\nsidetune COMMAND --help describes a command.")
    print("sidetune --version lists the packages with plugins.")
    return 0


def _print_versions() -> int:
    """The version, and a line for each distribution with plugins."""
    from sidetune_core.config import registry

    print(f"sidetune {__version__}")
    counts: dict[str, dict[str, int]] = {}
    for kind, plugins in registry.scan().plugins.items():
        for plugin in plugins:
            kinds = counts.setdefault(plugin.origin, {})
            kinds[kind.plural] = kinds.get(kind.plural, 0) + 1
    for origin, kinds in sorted(counts.items()):
        provided = ", ".join(f"{count} {plural}" for plural, count in kinds.items())
        print(f"  {one_line(origin)}: {provided}")
    return 0


def _guarded(command: Callable[[], int], debug: bool, typed: Sequence[str] = ()) -> int:
    """Run a command; an error of the user's becomes one paragraph and status 2, divergence status 1."""
    try:
        os.getcwd()
    except OSError:  # PyTorch's libraries end the process in such a folder
        print("error: the current folder does not exist; change to one that does", file=sys.stderr)
        return 2
    try:
        with escaped_output(), _warnings_on_stderr(), damaged_metadata_skipped():
            return command()
    except EndedElsewhere:
        if debug:
            raise
        return 2
    except UntrustedCode as error:
        if debug:
            raise
        trusting = shlex.join([*typed, "--trust-local-code"])
        what = f"{error.what}, which can do anything; if you trust it: {trusting}"
        print(f"error: {indented(what)}", file=sys.stderr)
        return 2
    except SidetuneError as error:
        if debug:
            raise
        print(f"error: {indented(error)}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except Interrupted as stop:
        if stop.reports:
            from sidetune_core.storage.run_folder import resume_command

            resume = resume_command(stop.folder, stop.needs_trust)
            print(f"\nInterrupted. Resume with: {one_line(resume)}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has exited
        sys.stderr.close()
        return 0
    except (MemoryError, OSError, RuntimeError) as error:  # a traceback would say nothing to the user
        shortage = describe_shortage(error)
        if debug or shortage is None:
            raise
        print(f"error: {indented(shortage)}", file=sys.stderr)
        return 1


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print each warning about a former spelling, a damaged checkpoint or data once, in one line; all others
    are as usual."""
    printed: set[str] = set()
    show_others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__name__ not in ("FormerSpelling", "CheckpointWarning", "DataWarning"):
            show_others(message, category, filename, lineno, file, line)
        elif str(message) not in printed:
            printed.add(str(message))
            print(f"warning: {indented(message)}", file=sys.stderr)

    restored: Any = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = restored
