"""`sidetune completion`: a script that makes a shell complete commands, options and names of components."""

from __future__ import annotations

from typing import Literal

from tyro.conf import Positional

from sidetune_core.cli.commands import COMMANDS
from sidetune_core.config.argv_options import GENERAL
from sidetune_core.config.kinds import KINDS
from sidetune_core.config.option_tables import TABLES
from sidetune_core.config.options import describe

TRAINING = ("run", "sweep", "tune")
"""Commands of `sidetune` with the options of a run."""

_BASH = """\
_sidetune() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    COMPREPLY=()
    case $before in
        SLOTS)
            COMPREPLY=($(compgen -W "$(sidetune list "${before#--}" --names 2>/dev/null)" -- "$word"))
            return ;;
        list|describe|check|new)
            COMPREPLY=($(compgen -W "KINDS" -- "$word"))
            return ;;
    esac
    if [[ ${COMP_WORDS[COMP_CWORD-2]} == @(describe|check) ]]; then
        COMPREPLY=($(compgen -W "$(sidetune list "$before" --names 2>/dev/null)" -- "$word"))
    elif [[ $COMP_CWORD == 1 && ${COMP_WORDS[0]##*/} == sidetune ]]; then
        COMPREPLY=($(compgen -W "COMMANDS" -- "$word"))
    elif [[ $word == -* && (${COMP_WORDS[0]##*/} == sidetune-run || ${COMP_WORDS[1]} == @(TRAINING)) ]]; then
        COMPREPLY=($(compgen -W "OPTIONS" -- "$word"))
    fi
}
complete -o default -o bashdefault -F _sidetune sidetune sidetune-run
"""

_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def completion(shell: Positional[Literal["bash", "zsh", "fish"]]) -> int:
    """Print a script for the completion of a shell: commands, options, and the names of components that are
    installed when a key is pressed.

    bash: eval "$(sidetune completion bash)" in ~/.bashrc

    zsh: eval "$(sidetune completion zsh)" in ~/.zshrc

    fish: sidetune completion fish > ~/.config/fish/completions/sidetune.fish

    Args:
        shell: bash, zsh or fish.
    """
    print(_fish() if shell == "fish" else (_ZSH if shell == "zsh" else "") + _bash(), end="")
    return 0


def _bash() -> str:
    values = {
        "SLOTS": "|".join(f"--{kind.name}" for kind in KINDS),
        "KINDS": " ".join(kind.name for kind in KINDS),
        "COMMANDS": " ".join([*COMMANDS, "help"]),
        "TRAINING": "|".join(TRAINING),
        "OPTIONS": " ".join(f"--{name}" for name in _options()),
    }
    script = _BASH
    for name, value in values.items():
        script = script.replace(name, value)
    return script


def _fish() -> str:
    commands = " ".join([*COMMANDS, "help"])
    lines = [f"complete -c sidetune -n __fish_use_subcommand -f -a '{commands}'"]
    for program in ("sidetune", "sidetune-run"):
        for kind in KINDS:
            names = f"(sidetune list {kind.name} --names 2>/dev/null)"
            lines.append(f"complete -c {program} -l {kind.name} -x -a '{names}'")
        when = f" -n '__fish_seen_subcommand_from {' '.join(TRAINING)}'" if program == "sidetune" else ""
        lines += [f"complete -c {program}{when} -l {name}" for name in _options() if name not in _slots()]
    return "\n".join(lines) + "\n"


def _options() -> list[str]:
    """The options of a run that belong to no component."""
    tables = [f"{table}.{info.name}" for table, config in TABLES.items() for info in describe(config)]
    return [*_slots(), *(name.replace("_", "-") for name in GENERAL), *tables, "help"]


def _slots() -> list[str]:
    return [kind.name for kind in KINDS]
