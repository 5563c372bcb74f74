"""``kill.py TASK STEP WORD…``: run ``sidetune-run`` and kill it before a step (from 0) of a task."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from sidetune_core import training
from sidetune_core.cli import main_run

compute, steps = training._gradient, 0


def main(task_id: str, last: int, words: list[str]) -> int:
    """Run until the process kills itself."""

    def killed(learner: Any, task: Any, *rest: Any) -> Any:
        global steps
        if task.id == task_id:
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
        return compute(learner, task, *rest)

    training._gradient = killed
    return int(main_run(words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
