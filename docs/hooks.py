"""Insert into the pages what comes from the code: the help of a command, the checks of a contract, and the
catalogue of components.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from sidetune_core.cli import main
from sidetune_core.testing import (
    continuations,
    networks,
    plugin,
    processes,
)

sys.path.append(str(Path(__file__).parent))
import api_groups  # noqa: E402
import components  # noqa: E402

CHECKS: Final[Mapping[str, Sequence[Callable[..., None]]]] = {
    "every kind": (
        *plugin.PACKAGE_CHECKS,
        plugin.class_has_a_docstring,
        *plugin.CONFIG_CHECKS,
        processes.order_is_the_same_in_every_process,
        *plugin.EFFECT_CHECKS,
    ),
    **plugin.KIND_CHECKS,
    "base": (*networks.IMAGE_BASE_CHECKS, *continuations.CHECKS),
}
WIDTH = "78"
"""Columns of the printed help: a block of code has about 80 in a window of 1280 pixels."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its ``$ … --help`` blocks, and its lines ``<!-- checks: … -->``, ``<!-- api: … -->`` and
    ``<!-- catalogue: … -->``, filled in; called by MkDocs."""
    markdown = re.sub(
        r"(?<=^```console\n)\$ (sidetune.* --help)\n(?=```$)", _with_help, markdown, flags=re.MULTILINE
    )
    markdown = re.sub(
        r"^<!-- catalogue: (.*) -->$", lambda found: components.table(found[1]), markdown, flags=re.MULTILINE
    )
    markdown = re.sub(
        r"^<!-- api: (.*) -->$", lambda found: api_groups.members(found[1]), markdown, flags=re.MULTILINE
    )
    return re.sub(r"^<!-- checks: (.*) -->$", lambda found: table(found[1]), markdown, flags=re.MULTILINE)


def table(kind: str) -> str:
    """The checks of a kind, one per row, by their docstrings."""
    rows = [f"| `{check.__name__}` | {_sentence(check)} |" for check in CHECKS[kind]]
    return "\n".join(["| check | what it verifies |", "|---|---|", *rows])


def _sentence(check: Callable[..., None]) -> str:
    paragraph = (check.__doc__ or "").split("\n\n")[0]
    return re.sub(r"``(.*?)``", r"`\1`", " ".join(paragraph.split()))


def _with_help(found: re.Match[str]) -> str:
    """The command, and what it prints."""
    program, *words = found[1].split()
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS=WIDTH), redirect_stdout(printed), suppress(SystemExit):
        status = (main.main_run if program == "sidetune-run" else main.main)(words)
        if status:
            raise ValueError(f"'{found[1]}' ends with status {status}")
    return f"$ {found[1]}\n{printed.getvalue()}"
