"""Runs, each in a process of its own that is killed at a given moment. Forked from here, since
importing torch for each takes seconds.

A line of JSON on standard input is one run: `spec`, `folder`, `save_every`, `kill`, and whether to `resume`,
or `extend` with options of `sidetune_core.extend`.
The answer is a line with the process's `status` as `os.waitstatus_to_exitcode` has it and the number of
`moments`. A moment is a forward pass, a line that is half written, or a file just before it is synced or
renamed: at moment number `kill` the process sends itself SIGKILL; 0 is never.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - torch imports it with the first optimiser, and that takes longest of all

import sidetune_core
from sidetune_core.config import spec_file
from sidetune_core.storage import run_folder
from sidetune_core.system import device
from sidetune_core.training import run as training


class Moments:
    """Counts, and kills."""

    def __init__(self, kill: int) -> None:
        self.count, self._kill = 0, kill

    def next(self) -> bool:
        """Whether this is the one to die at."""
        self.count += 1
        return self.count == self._kill

    def die_before(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def replacement(*args: Any) -> Any:
            if self.next():
                os.kill(os.getpid(), signal.SIGKILL)
            return (
                None if name == "fsync" else original(*args)
            )  # what a process has written outlives it; only power cuts need syncing

        setattr(owner, name, replacement)

    def die_in_the_middle_of_lines(self) -> None:
        original = run_folder.RunFolder._add

        def replacement(folder: run_folder.RunFolder, name: str, line: str) -> None:
            if self.next():
                (folder.path / name).open("a").write(line[: len(line) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            original(folder, name, line)

        run_folder.RunFolder._add = replacement  # type: ignore[method-assign]


def run(order: dict[str, Any], write_to: int) -> None:
    moments = Moments(order["kill"])
    moments.die_before(os, "fsync")
    moments.die_before(os, "replace")
    moments.die_before(device.Machine, "autocast")
    moments.die_in_the_middle_of_lines()
    if order.get("extend"):
        sidetune_core.extend(order["folder"], **order["extend"], trust_local_code=True)
    elif order["resume"]:
        sidetune_core.resume(order["folder"], trust_local_code=True)
    else:
        training.run(
            spec_file.from_values(order["spec"], "the test", trust_local_code=True),
            order["folder"],
            save_every=order["save_every"],
        )
    os.write(write_to, str(moments.count).encode())


def main() -> None:
    os.chdir(Path(__file__).parent)
    training.git_state = lambda: None  # it takes longer than the run
    for line in sys.stdin:
        read_from, write_to = os.pipe()
        child = os.fork()
        if not child:
            try:
                run(json.loads(line), write_to)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write_to)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(read_from) as moments:
            print(json.dumps({"status": status, "moments": int(moments.read() or 0)}), flush=True)


if __name__ == "__main__":
    main()
