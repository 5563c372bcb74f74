"""A forger's full rewrite of the checkpoints of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidetune_core.storage.chain_file import text_digest


def seal(checkpoints: Path, change: Callable[[str, dict[str, Any]], object]) -> None:
    """Changes the JSON of every file of a chain by its name, and makes all SHA-256 agree again."""
    seals: dict[str, str] = {}
    for file in sorted(checkpoints.glob("*.json"), key=lambda file: (file.stem != "base", file.stem)):
        state = json.loads(file.read_text())["state"]
        change(file.stem, state)
        if state["predecessor"] is not None:
            state["predecessor"]["sha256"] = seals[state["predecessor"]["name"]]
        seals[file.stem] = text_digest(json.dumps(state))
        file.write_text(json.dumps({"state": state, "sha256": seals[file.stem]}))
