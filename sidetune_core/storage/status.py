"""How a run has ended, as its file ``status`` says."""

from __future__ import annotations

DONE, DIVERGED = "done", "diverged"
"""The statuses of a run that has ended by itself; the second one is followed by a reason."""

UNKNOWN = "unknown"
"""The status of a run whose file ``status`` is missing or damaged."""


def has_diverged(status: str) -> bool:
    """Whether a status is that of a run with a loss, an output or a metric that is not finite."""
    return status == DIVERGED or status.startswith(f"{DIVERGED}:")


def has_ended(status: str) -> bool:
    """Whether a status is that of a run that nothing has interrupted: it is done, or has diverged."""
    return status == DONE or has_diverged(status)
