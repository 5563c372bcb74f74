"""``--extend``: the spec of a run with the env whose tasks are added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidetune_core.config.arguments import Argument
from sidetune_core.config.argv_names import is_chosen, owner_of
from sidetune_core.config.argv_options import PROGRAM
from sidetune_core.config.argv_request import Request
from sidetune_core.config.choice import Choice
from sidetune_core.config.differences import flatten
from sidetune_core.config.extensions import with_env
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import OptionError

FIXED = ("base", "side", "merger", "learner")
"""The components that an extension has from its run."""


def extended_spec(request: Request, run: Path, arguments: Sequence[Argument], file: str) -> RunSpec:
    """The spec of a run with the env whose tasks are added to it; options of the env have their defaults.

    Raises:
        OptionError: the folder holds no run, no env is named, or another component or seed is.
    """
    path = run / "run.json"
    if not path.is_file():
        raise OptionError(f"{run} holds no run (it has no run.json)")
    spec = read_spec(path, request.trust_local_code)
    for slot, name in request.names.items():
        if slot in FIXED and not is_chosen(slot, name, spec):
            chosen = spec.component(slot)
            own = f"{slot} '{chosen.name.rpartition('/')[2]}'" if chosen is not None else f"no {slot}"
            raise OptionError(f"an extension continues its run, which has {own}; leave out --{slot} {name}")
    for argument in arguments:
        if argument.name in ("seed", "spec", "scenario"):
            raise OptionError(
                f"an extension has the seed, the scenario and the spec of its run; leave out {argument.typed}"
            )
    if "env" not in request.names:
        raise OptionError(
            f"name the env whose tasks are added to the run, such as {PROGRAM} --extend {run} --env digits"
        )
    return with_env(spec, Choice(request.names["env"], file=file), {})


def check_fixed(spec: RunSpec, changed: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that an extension sets no option of a component that it has from its run.

    Raises:
        OptionError: it does.
    """
    for slot in FIXED:
        if slot in changed:
            option = next(iter(flatten(changed[slot]))).replace("_", "-")
            raise OptionError(
                f"an extension continues {owner_of(spec, slot)} of its run with the run's options; leave out "
                f"--{slot}.{option}"
            )
