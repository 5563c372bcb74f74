"""Disk space of a run compared with that of its base and its adapters.

    python benchmarks/disk.py [--tasks 3 20 100] [--network mlp|resnet18] [--steps 2] [--learner sidetune]
    [--keep all] [--folder DIR]

Learner 'sidetune' on tasks of two classes of random images of 32 x 32. The network 'resnet18' is
torchvision's ResNet-18 as base (random weights, whose values do not matter) with the side 'ladder'. All
earlier tasks are evaluated after each one, which takes hours for 100 tasks of it; 'mlp' is a base and a side
of about the same sizes that need minutes. An adapter is everything that a task adds to the base. Each number
of tasks is a run in a process of its own.

Printed for each: MB of the base and of all adapters together; the size of the checkpoints' tensors divided by
their sum, and that of the whole run folder; the MB of each kind of file: tensors and JSON of the checkpoints,
probes, certificate, .jsonl files, and the rest (TensorBoard files, task cards, report, run.json); the largest
JSON of a checkpoint. The target is a ratio of at most 1.1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import sidetune_core
from sidetune_core.storage import checkpoint

TARGET = 1.1
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": ({"name": "mlp", "width": 2048, "layers": 2}, {"name": "mlp", "width": 128}),
    "resnet18": ({"name": "torchvision", "model": "resnet18", "weights": "none"}, {"name": "ladder"}),
}
"""Bases, each with a side."""
KINDS: dict[str, Callable[[Path], bool]] = {
    "tensors": lambda path: path.parts[0] == "checkpoints" and path.suffix == ".safetensors",
    "json": lambda path: path.parts[0] == "checkpoints",
    "probes": lambda path: path.parts[0] == "probes",
    "cert.": lambda path: path.name == "certificate.json",
    "jsonl": lambda path: path.suffix == ".jsonl",
    "rest": lambda path: True,
}
"""Kinds of files of a run, by path in its folder; the first that fits counts."""


def main() -> None:
    """Run every number of tasks and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[3, 20, 100])
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--learner", default="sidetune")
    parser.add_argument("--keep", choices=("all", "last"), default="all")
    parser.add_argument("--folder", type=Path, help="where to leave the runs; by default they are deleted")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _train(options)
        return
    print(f"{'tasks':>5}{'base':>8}{'adapters':>10}{'ratio':>8}{'of all':>8}", end="")
    print("".join(f"{kind:>9}" for kind in KINDS) + f"{'largest json':>14}")
    with tempfile.TemporaryDirectory() as folder:
        root = options.folder or Path(folder)
        for tasks in options.tasks:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", str(tasks)]
            subprocess.run([*command, "--folder", str(root)], check=True)
            _print_row(tasks, root / _name(tasks, options))


def _train(options: argparse.Namespace) -> None:
    tasks: int = options.child
    archive = options.folder / f"{tasks}.npz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    labels = np.tile(np.arange(2 * tasks), 8)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    np.savez(archive, x_train=images, y_train=labels, x_test=images[: 8 * tasks], y_test=labels[: 8 * tasks])
    base, side = NETWORKS[options.network]
    has_side = options.learner == "sidetune"
    spec = sidetune_core.RunSpec(
        base=base,
        side=side if has_side else None,
        merger="alpha" if has_side else None,
        learner=options.learner,
        env={"name": "images", "archive": str(archive), "image_size": 32, "classes_per_task": 2},
        train={"steps": options.steps, "batch_size": 8},
    )
    sidetune_core.run(spec, options.folder / _name(tasks, options), save_every="none", keep=options.keep)


def _name(tasks: int, options: argparse.Namespace) -> str:
    return f"{tasks}-{options.network}-{options.learner}-{options.keep}"


def _print_row(tasks: int, folder: Path) -> None:
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    tensors = checkpoint.read(newest).state
    base = sum(value.nbytes for name, value in tensors.items() if name.startswith("base."))
    adapters = sum(value.nbytes for value in tensors.values()) - base
    sizes = dict.fromkeys(KINDS, 0)
    for path in folder.rglob("*"):
        if path.is_file():
            relative = path.relative_to(folder)
            kind = next(kind for kind, fits in KINDS.items() if fits(relative))
            sizes[kind] += path.stat().st_size
    ratio = sizes["tensors"] / (base + adapters)
    whole = sum(sizes.values()) / (base + adapters)
    largest = max(path.stat().st_size for path in (folder / "checkpoints").glob("after-*.json"))
    print(f"{tasks:>5}{base / 1e6:>8.2f}{adapters / 1e6:>10.2f}{ratio:>8.3f}{whole:>8.3f}", end="")
    print("".join(f"{size / 1e6:>9.2f}" for size in sizes.values()) + f"{largest / 1e3:>11.1f} kB", end="")
    print("" if whole <= TARGET else f"  above {TARGET}", flush=True)


if __name__ == "__main__":
    main()
