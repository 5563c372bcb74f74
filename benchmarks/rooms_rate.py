"""How fast rooms are made, beside reading the same pictures from disk.

    python benchmarks/rooms_rate.py [--size 128] [--rooms 64] [--threads 2] [--repeats 3]

``make`` samples rooms, renders them and derives every label; ``read`` opens the files of the twelve domains that were written of them, with
Pillow and NumPy, one after another. Both take turns. Printed for each: rooms per second by the clock and by the processor's time of one
core, the best of the repeats, and the ratio to ``read``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rooms", type=int, default=64, help="a multiple of 8, which are rendered at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _make(options.rooms, options.size, root)
        files = sorted(root.glob("*/*/*"))
        variants: dict[str, Callable[[], None]] = {
            "make": lambda: _make(options.rooms, options.size),
            "read": lambda: _read(files),
        }
        clock, processor = dict.fromkeys(variants, float("inf")), dict.fromkeys(variants, float("inf"))
        for _ in range(options.repeats):
            for name, work in variants.items():
                began, used = time.perf_counter(), time.process_time()
                work()
                clock[name] = min(clock[name], time.perf_counter() - began)
                processor[name] = min(processor[name], time.process_time() - used)
    print(
        f"{options.rooms} rooms of {options.size} x {options.size}, {options.threads} threads, best of {options.repeats}"
    )
    print(f"{'':<6}{'rooms/s':>9}{'rooms/s of a core':>19}{'ratio':>8}")
    for name in variants:
        rate, own = options.rooms / clock[name], options.rooms / processor[name]
        print(f"{name:<6}{rate:>9.1f}{own:>19.1f}{clock['read'] / clock[name]:>8.2f}")


def _make(rooms: int, size: int, folder: Path | None = None) -> None:
    """Through env 'rooms', as a run does that has none in store; with `folder`, also into files."""
    cls = load(find(ENV, "rooms"))
    cls(
        cls.Config(num_images=rooms - 8, num_test_images=8, image_size=size, cache=False, export=folder),
        seed=0,
    ).tasks()


def _read(files: list[Path]) -> None:
    for path in files:
        if path.suffix == ".npy":
            np.load(path)
        else:
            with Image.open(path) as image:
                np.asarray(image)


if __name__ == "__main__":
    main()
