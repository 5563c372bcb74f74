"""Spec files in YAML. PyYAML reads them; it is installed with packages for models and data."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from sidetune_core.errors import OptionError
from sidetune_core.io.files import read_text

_FLOAT = r"^[-+]?((\d+\.?\d*|\.\d+)[eE][-+]?\d+|\d+\.\d*|\.\d+|\.inf|\.nan)$"
"""Floats of YAML 1.2: in 1.1, ``1e-3`` is a string."""


def read_yaml(path: Path) -> Any:
    """The content of a ``.yaml`` file.

    Raises:
        OptionError: the file is missing or damaged, or PyYAML is not installed.
    """
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise OptionError(
            f"cannot read {path}: PyYAML is not installed (pip install pyyaml). A spec can be a .toml or "
            ".json file"
        ) from error
    loader: Any = type("Loader", (yaml.SafeLoader,), {})  # its rules are its own, not those of all loaders
    loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))
    try:
        return yaml.load(read_text(path), loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"cannot read the spec {path}: {reason}") from error
