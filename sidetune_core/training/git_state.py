"""The commit of the checkout that the code runs from, which ``run.json`` records."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def git_state() -> dict[str, Any] | None:
    """The commit of the checkout that this code runs from, and whether it has changes; None outside a
    checkout.
    """

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        records = (f":(exclude,top)ledger/{folder}" for folder in ("recorded", "searches"))
        status = git("status", "--porcelain", "--", ":/", *records)  # records are made one after another
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(status)}
    except (OSError, subprocess.SubprocessError):
        return None
