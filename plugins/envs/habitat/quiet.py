"""Silences habitat's libraries; imported before habitat in each process."""

from __future__ import annotations

import contextlib
import io
import os

for name, value in {
    "GLOG_minloglevel": "2",
    "HABITAT_LAB_LOG": "30",
    "HABITAT_SIM_LOG": "quiet",
    "MAGNUM_LOG": "quiet",
}.items():
    os.environ.setdefault(name, value)
with contextlib.redirect_stderr(io.StringIO()):
    import gym  # noqa: F401 - prints at import that it is unmaintained
