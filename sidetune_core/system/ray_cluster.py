"""The Ray cluster at ``RAY_ADDRESS``, or a local one if that is not set."""

from __future__ import annotations

import logging
import os
from typing import Any

from sidetune_core.errors import OptionError, PluginError


def connect(option: str) -> Any:
    """The module ``ray``, connected to the cluster.

    Args:
        option: that asks for Ray, for messages.

    Raises:
        PluginError: Ray is not installed.
        OptionError: the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise PluginError(f"{option} needs 'ray': pip install 'sidetune[ray]'") from error
    dashboard = None if os.environ.get("RAY_ADDRESS") else False  # can be set for a local cluster only
    try:
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=dashboard,
            ignore_reinit_error=True,
        )
    except Exception as error:  # Ray raises Exception itself where its processes start too slowly
        raise OptionError(f"{option}: {str(error).splitlines()[0]}") from error
    return ray
