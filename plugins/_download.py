"""Weights from the internet, where there may be none: one sentence at once, in place of retries and log lines
of libraries.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies


def is_reachable(url: str) -> bool:
    """False if this computer cannot find the host of a URL; nothing is sent to it. With a proxy, which finds
    hosts itself, it is true.
    """
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True


@contextmanager
def hub_access() -> Iterator[None]:
    """Let libraries load from the Hugging Face Hub within the block.

    Where this computer cannot find the Hub, they use their cache only, as with ``HF_HUB_OFFLINE=1``; each of
    their requests would take half a minute of retries.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, was_offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = was_offline or not is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logger.setLevel(level)
