"""Time to start: the first step of a run, and the list of components, compared with the import of PyTorch.

    python benchmarks/start.py [--repeats 5]
    python benchmarks/start.py --quick                # once each

Measures the processor time of new processes, which take turns: the import of PyTorch alone, `sidetune list`,
the same with 200 more packages installed (made in a temporary folder), and `sidetune-run` with its defaults
up to the first optimiser step, from the start of the interpreter. By then, data are read, and the untrained
learner is evaluated (row -1 of R), whose time is given apart too: the features of the test images that it
computes are stored for the later rows.

Targets: the first step within 1.5 x the import of PyTorch, the list within 0.4 s, and within 0.8 s with 200
packages.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib import metadata
from pathlib import Path

PACKAGES = 200
TORCH = "import torch"
LIST = "from sidetune_core.cli.main import main; main(['list'])"
FIRST_STEP = """
import os, time
from sidetune_core.cli import main
waited = 0.0
def instrument():
    import sidetune_core.training.loop as loop
    import sidetune_core.training.steps as steps
    untrained = loop.evaluate_untrained
    def timed(*arguments, **options):
        global waited
        began = time.process_time()
        untrained(*arguments, **options)
        waited = time.process_time() - began
    loop.evaluate_untrained = timed
    def stop(*arguments, **options):
        print(f"\\n{waited} {time.process_time()}", flush=True)
        os._exit(0)
    steps.StageTraining._draw = stop
import importlib.abc, importlib.util, sys
class Loaded(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "sidetune_core.training.run":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), instrument())
        return spec
sys.meta_path.insert(0, Loaded())
main.main_run(["--out", "run"])
"""
"""Prints the seconds of row -1, and those up to the first step, at which it ends."""
CLOCK = "\nimport time\nprint('\\n0', time.process_time())"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="once each")
    given = parser.parse_args()
    repeats = 1 if given.quick else given.repeats
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {date.today()}")
    print(f"commit {commit()}, torch {metadata.version('torch')}")
    with tempfile.TemporaryDirectory() as folder:
        packages = make_packages(Path(folder) / "packages")
        programs = {
            "import torch": (TORCH + CLOCK, ""),
            "sidetune list": (LIST + CLOCK, ""),
            f"the same, {PACKAGES} packages more": (LIST + CLOCK, str(packages)),
            "sidetune-run to the first step": (FIRST_STEP, ""),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for number in range(repeats + 1):  # the first turn fills the caches of files
            for name, (program, path) in programs.items():
                with tempfile.TemporaryDirectory() as current:
                    measured = seconds(program, path, current)
                if number or given.quick:
                    times[name].append(measured)
    print(f"\n{'processor seconds':34s} median   range            x import torch")
    torch = [total for _, total in times["import torch"]]
    for name, measurements in times.items():
        totals = [total for _, total in measurements]
        ratio = statistics.median(total / reference for total, reference in zip(totals, torch, strict=True))
        spread = f"{min(totals):.2f} to {max(totals):.2f}"
        print(f"{name:34s} {statistics.median(totals):6.2f}   {spread:16s} {ratio:6.2f}")
    untrained = statistics.median(part for part, _ in times["sidetune-run to the first step"])
    print(f"{'  of which row -1 of R':34s} {untrained:6.2f}")


def commit() -> str:
    """Of the checkout; 'unknown' outside of one."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def make_packages(folder: Path) -> Path:
    """The metadata of `PACKAGES` packages without plugins."""
    for number in range(PACKAGES):
        described = folder / f"package{number}-1.0.dist-info"
        described.mkdir(parents=True)
        fields = f"Metadata-Version: 2.1\nName: package{number}\nVersion: 1.0\n\n"
        (described / "METADATA").write_text(fields + "A line of a description.\n" * 200)
        (described / "entry_points.txt").write_text(
            f"[console_scripts]\ncommand{number} = package{number}:main\n"
        )
    return folder


def seconds(program: str, path: str, current: str) -> tuple[float, float]:
    """What a program prints last: a part of its processor time, and all of it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.getenv("PYTHONPATH")]))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=current, env=environment)
    part, total = done.stdout.splitlines()[-1].split()
    return float(part), float(total)


if __name__ == "__main__":
    main()
