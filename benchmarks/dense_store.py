"""Side-tuning a dense task with a ResNet-50 base: epochs with and without the feature cache.

    python benchmarks/dense_store.py [--size 256] [--images 160] [--batch 8] [--epochs 3] [--learner sidetune]
    [--precision auto]

Env 'rooms', the Taskonomy encoder in full width with random weights (their values do not affect speed), side
fcn5, depth. Variants run one after another, each in its own process: ``off`` computes the base at every step,
``disk`` fills a new cache on disk in its first epoch and reads it from the second on, and ``again`` is a
second run with that cache. Only training is timed, from the end of the first epoch (which fills the cache and
warms up), by the time stamps of steps in the run's TensorBoard log. Printed for each: seconds per epoch, the
ratio of ``off`` to it, size on disk per image, and the peak memory of the process.

With ``--learner pnn`` the taps are cached too: 2.4 MB for an image of 256 x 256 in bf16, compared with 8 kB
without them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import sidetune_core

VARIANTS = {"off": "off", "disk": "disk", "again": "disk"}
LOG_EVERY = 20
"""Steps between two time stamps."""


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument(
        "--images",
        type=int,
        default=160,
        help="a multiple of 20 batches, so that epochs end at time stamps",
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learner", choices=("sidetune", "pnn"), default="sidetune")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images % (LOG_EVERY * options.batch) or options.epochs < 2:
        parser.error(f"--images must be a multiple of {LOG_EVERY} times --batch, and --epochs 2 or more")
    if options.child:
        _train(options)
        return
    images = f"{options.images} images of {options.size} x {options.size}"
    print(f"{images}, batch {options.batch}, learner {options.learner}")
    print(f"{'':<8}{'s / epoch':>11}{'ratio':>8}{'kB / image':>12}{'peak GB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        slowest = 0.0
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--folder", folder]
            environment = {**os.environ, "SIDETUNE_HOME": str(root / "home")}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            peak = float(done.stdout.split()[-1])
            seconds = _epoch(root / variant, options.images // options.batch, options.epochs)
            slowest = slowest or seconds
            cached = 0 if variant == "off" else _size(root / "store") / _count_images(options) / 1e3
            times = f"{seconds:>11.2f}{slowest / seconds:>8.1f}"
            print(f"{variant:<8}{times}{cached:>12.1f}{peak:>9.2f}", flush=True)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _count_images(options: argparse.Namespace) -> int:
    """Training and test images."""
    return int(options.images + options.batch)


def _train(options: argparse.Namespace) -> None:
    """Run in this process and print its peak memory in GB."""

    env = {
        "name": "rooms",
        "domains": ["depth_zbuffer"],
        "num_images": options.images,
        "num_test_images": options.batch,
        "image_size": options.size,
    }
    spec = sidetune_core.RunSpec(
        env=env,
        base={"name": "taskonomy", "weights": "none", "width": 64},
        side="fcn5",
        learner=options.learner,
        train={"batch_size": options.batch, "epochs": options.epochs},
        cache={"mode": VARIANTS[options.child], "dir": options.folder / "store", "limit": 64.0},
        device={"precision": options.precision},
    )
    sidetune_core.run(spec, options.folder / options.child)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def _epoch(run: Path, steps: int, epochs: int) -> float:
    """Seconds per epoch after the first, from the TensorBoard log of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "tb"))
    log.Reload()
    tag = next(tag for tag in log.Tags()["scalars"] if tag.endswith("/loss"))
    stamps = {event.step: event.wall_time for event in log.Scalars(tag)}
    return float(stamps[steps * epochs] - stamps[steps]) / (epochs - 1)


if __name__ == "__main__":
    main()
