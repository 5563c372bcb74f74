"""Memory of the data and of the feature store: mapped archives, and tables of up to a million examples.

    python benchmarks/store_memory.py                 # an archive of 614 MB, tables of 1e4, 1e5 and 1e6 rows
    python benchmarks/store_memory.py --quick         # 77 MB, tables of 1e4 and 1e5 rows

Archive: an uncompressed ``.npz`` of random images of 32 x 32 pixels is read by env icifar in a process of its
own, which then draws a batch of every task. The peak of resident memory is given without that of the imports;
``own`` is the part that belongs to the process alone at the end, without the pages of files, which the system
can take back and other processes share. ``content`` is the size of the arrays.

Tables: rows of 64 numbers are appended 256 at a time, in memory and in files (``--cache.disk``), each in a
process of its own. ``bytes`` is the resident memory that the process has for a row at the end beyond the
numbers themselves (of the store in files: all of it without the pages of files); ``find`` the processor time
of a lookup of 256 random ids, and ``read`` of their rows, in microseconds, medians of 200.

Targets: the peak at most the content and 300 MB; bytes a row at most 200, and times that do not grow with the
number of rows beyond what caches of the processor explain (3 x from 1e4 to 1e6).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, BATCH = 64, 256
MODES = ("memory", "disk")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200_000, help="of the archive, 3,072 bytes each")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="smaller, and once")
    parser.add_argument("--child", choices=("archive", *MODES), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        measure = measure_archive if given.child == "archive" else measure_table
        print(json.dumps(measure(given)))
        return
    if given.quick:
        given.images, given.rows, given.repeats = 25_000, [10**4, 10**5], 1
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {date.today()}")
    print(f"commit {commit()}, torch {metadata.version('torch')}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        make_archive(path, given.images)
        print("\narchive MB   content   peak   own")
        found = median([child("archive", path, 0) for _ in range(given.repeats)])
        size = path.stat().st_size / 1e6
        print(f"{size:10.0f}   {found['content']:7.0f} {found['peak']:6.0f} {found['own']:5.0f}")
        print("\nmode        rows    bytes     find    read")
        turns = itertools.count()
        for mode, rows in itertools.product(MODES, given.rows):
            runs = [child(mode, Path(folder) / f"store{next(turns)}", rows) for _ in range(given.repeats)]
            found = median(runs)
            print(f"{mode:8s} {rows:7d} {found['bytes']:8.0f} {found['find']:8.0f} {found['read']:7.0f}")


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each value over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def child(what: str, path: Path, rows: int) -> dict[str, float]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--child", what, "--path", str(path), "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def make_archive(path: Path, images: int) -> None:
    """Random images of 100 classes, a tenth of them for testing."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {"names": np.array([f"class {label}" for label in range(100)])}
    for split, count in (("train", images - images // 10), ("test", images // 10)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 100
    np.savez(path, **arrays)


def measure_archive(given: argparse.Namespace) -> dict[str, float]:
    """Of reading it, and of a batch of each task, in MB."""
    import torch

    from sidetune_core.api import Order
    from sidetune_core.config.kinds import ENV
    from sidetune_core.config.registry import find, load

    env = load(find(ENV, "icifar"))
    before = memory()
    stream = env(env.Config(archive=given.path), 0)
    tasks = stream.tasks()
    stream.fingerprint()
    for task in tasks:
        next(iter(task.train(lambda _: torch.empty(0), Order(0, 64))))
    after = memory()
    content = given.path.stat().st_size / 1e6
    peak, own = after["VmHWM"] - before["VmRSS"], after["RssAnon"] - before["RssAnon"]
    return {"content": content, "peak": peak / 1e6, "own": own / 1e6}


def measure_table(given: argparse.Namespace) -> dict[str, float]:
    """Bytes a row, and microseconds of a lookup."""
    import torch

    from sidetune_core.feature_cache.row_table import RowTable

    (rows,) = given.rows
    folder = given.path if given.child == "disk" else None
    generator = torch.Generator().manual_seed(0)
    lengths, before = torch.ones(BATCH, dtype=torch.int64), memory()
    table = RowTable(folder, lambda size: True, print)
    for first in range(0, rows, BATCH):
        ids = torch.arange(first, min(first + BATCH, rows))
        values = torch.randn(len(ids), WIDTH, generator=generator)
        table.append(ids, [values], lengths[: len(ids)], frozenset())
    table.save()
    own = memory()["RssAnon"] - before["RssAnon"]
    numbers = rows * WIDTH * 4 if folder is None else 0
    times: dict[str, list[float]] = {"find": [], "read": []}
    for _ in range(200):
        ids = torch.randint(rows, (BATCH,), generator=generator)
        began = time.process_time()
        found = table.find(ids)
        between = time.process_time()
        table.read(found, 0, torch.device("cpu"))
        times["find"].append(between - began)
        times["read"].append(time.process_time() - between)
    return {
        "bytes": (own - numbers) / rows,
        **{name: 1e6 * statistics.median(values) for name, values in times.items()},
    }


def memory() -> dict[str, int]:
    """Sizes of this process in bytes, as Linux gives them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in fields}


def commit() -> str:
    """Of the checkout; 'unknown' outside of one."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
