"""Runs, each in several processes as `torchrun` would start them. Forked from here, since importing torch
for each takes seconds.

A line of JSON on standard input is one run: `spec`, or None to resume the run in `folder`; the number of
`processes`; and, if something is to happen, what (`harm`), in which process (`rank`), before which step of it
(`at`, from 0). The answer is a line with what each process
had: its exit status as the command line gives it, what it wrote to standard error, and the ids of every batch
and of its share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - torch imports it with the first optimiser, and that takes longest of all
from torch.distributed import TCPStore

from sidetune_core import api
from sidetune_core.cli import main as cli
from sidetune_core.config import spec_file
from sidetune_core.distributed.process_group import BatchShard, ProcessGroup
from sidetune_core.training import resume as resumption
from sidetune_core.training import run as training

HERE = Path(__file__).parent


def watch(order: dict[str, Any], rank: int, ids: list[Any]) -> None:
    """Note ids, and do harm, where a batch is shared."""
    original = ProcessGroup.shard_batch

    def share(group: ProcessGroup, batch: api.Batch) -> BatchShard:
        if rank == order.get("rank") and len(ids) == order["at"]:
            if order["harm"] == "raise":
                raise api.DataError("the disk of this process is broken")
            os.kill(os.getpid(), getattr(signal, order["harm"]))
        found = original(group, batch)
        ids.append([batch.ids.tolist(), found.batch.ids.tolist()])
        return found

    ProcessGroup.shard_batch = share  # type: ignore[method-assign]


def run(order: dict[str, Any], rank: int, port: int, ids: list[Any]) -> int:
    if order["processes"] > 1:
        given = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": order["processes"],
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
        }
        os.environ.update({name: str(value) for name, value in given.items()})
    watch(order, rank, ids)

    def act() -> int:
        if order["spec"] is None:
            resumption.resume(order["folder"], trust_local_code=True)
        else:
            training.run(
                spec_file.from_values(order["spec"], "the test", trust_local_code=True),
                order["folder"],
                save_every=order["save_every"],
            )
        return 0

    return cli._guarded(act, debug=False)


def fork(order: dict[str, Any], rank: int, port: int, answer: Any, errors: Any) -> int:
    """Do a run's part of process `rank` in a new process; its id."""
    child = os.fork()
    if child:
        return child
    os.dup2(errors.fileno(), 2)
    ids: list[Any] = []
    status = 1
    try:
        status = run(order, rank, port, ids)
        json.dump(ids, answer)
        answer.flush()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    folders = [HERE, HERE.parents[1] / "training" / "kills", HERE.parents[2] / "methods"]
    sys.path[:0] = [str(folder) for folder in folders]
    training.git_state = lambda: None  # it takes longer than the run
    for line in sys.stdin:
        order = json.loads(line)
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # with a port of its own
        with ExitStack() as stack:
            files = [
                [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
                for _ in range(order["processes"])
            ]
            children = [fork(order, rank, store.port, *pair) for rank, pair in enumerate(files)]
            answers = []
            for child, (answer, errors) in zip(children, files, strict=True):
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                answer.seek(0)
                errors.seek(0)
                answers.append(
                    {"status": status, "told": errors.read(), "ids": json.loads(answer.read() or "[]")}
                )
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
