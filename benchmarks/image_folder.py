"""A folder of small JPEG files compared with the same images as an archive: memory and speed.

    python benchmarks/image_folder.py [--images 200000] [--classes 200] [--steps 200] [--repeats 5]

The images, 32 pixels wide, are made on the spot: smooth noise in the colour of their class. A twentieth is
the test split. Env ``images`` reads the folder (``--env.root``) with its default options, so that its scan
decodes every file and keeps all pixels, and the archive (``--env.archive``).

Memory is that of a run of ``--run-steps`` steps in a process of its own: its highest resident size, imports
included.

Steps per second are measured in one process, in which both take turns. ``train`` is the whole training step
of side-tuning, with the base's outputs in the feature cache: the batches are those of a first pass, which is
not timed. ``augmented`` is the same with ``--env.augment crop-flip``, which rules out the feature cache.
``read`` is the reading of batches alone. The ratio is the median over the repeats of folder / archive.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
TEST_EVERY = 20
"""Every n-th image is for testing."""
VARIANTS = ("folder", "archive")
JOBS = ("train", "augmented", "read")


def main() -> None:
    """Make the images, measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200, help="steps of a timed pass")
    parser.add_argument("--run-steps", type=int, default=500, help="steps where memory is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for shared machines")
    parser.add_argument("--base", default="conv", help="with random weights")
    parser.add_argument("--side", default="conv")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--data", type=Path, help="folder of the images, which are kept; none: temporary")
    parser.add_argument("--child", choices=("memory", "speed"), help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "memory":
        _run(options)
        print("null")
    elif options.child == "speed":
        print(json.dumps(_speed(options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.data = options.data or Path(folder)
            if not (options.data / "images.npz").is_file():
                _write_images(options)
            _compare(options)


def _compare(options: argparse.Namespace) -> None:
    print(
        f"{options.images:,} JPEGs in {options.classes} classes, base {options.base}, batch {options.batch}"
    )
    print(f"\n{'run':<12}{'peak MB':>9}{'seconds':>9}")
    for variant in VARIANTS:
        _, peak, seconds = _child(options, "memory", "--variant", variant)
        print(f"{variant:<12}{peak / 1e6:>9,.0f}{seconds:>9.1f}", flush=True)
    measured, _, _ = _child(options, "speed")
    print(f"\n{'':<12}{'folder':>9}{'archive':>9}{'ratio':>8}")
    print(f"{'reading s':<12}{measured['reading']['folder']:>9.1f}{measured['reading']['archive']:>9.1f}")
    for job, (folder, archive) in measured["rates"].items():
        ratio = statistics.median(a / b for a, b in zip(folder, archive, strict=True))
        rates = f"{statistics.median(folder):>9.1f}{statistics.median(archive):>9.1f}"
        print(f"{job + '/s':<12}{rates}{ratio:>8.3f}")


def _child(options: argparse.Namespace, *what: str) -> tuple[Any, float, float]:
    """What a child process prints, its highest resident size in bytes, and its seconds."""
    arguments = [*sys.argv[1:], "--data", str(options.data), "--child", *what]
    began = time.perf_counter()
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the child {' '.join(what)} failed")
    return json.loads(text.splitlines()[-1]), usage.ru_maxrss * 1024, time.perf_counter() - began


def _write_images(options: argparse.Namespace) -> None:
    """``folder/{train,test}/CLASS/NUMBER.jpg``, and ``images.npz`` with what they decode to."""
    generator = np.random.default_rng(0)
    colours = generator.integers(64, 192, (options.classes, 1, 1, 3))
    arrays: dict[str, list[Any]] = {f"{name}_{split}": [] for name in "xy" for split in ("train", "test")}
    for label, colour in enumerate(colours):
        for number in range(label, options.images, options.classes):
            split = "test" if number // options.classes % TEST_EVERY == 0 else "train"
            path = options.data / "folder" / split / f"class{label:04}" / f"{number:07}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = (colour + generator.normal(0, 40, (4, 4, 3))).clip(0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(coarse).resize((SIZE, SIZE)).save(file, "JPEG", quality=90)
            path.write_bytes(file.getvalue())
            arrays[f"x_{split}"].append(np.asarray(Image.open(file).convert("RGB")))
            arrays[f"y_{split}"].append(label)
    stacked: dict[str, Any] = {name: np.array(values) for name, values in arrays.items()}
    np.savez(options.data / "images.npz", **stacked)


def _spec(options: argparse.Namespace, variant: str, **env: Any) -> Any:
    from sidetune_core import RunSpec

    is_archive = variant == "archive"
    data = {"archive": options.data / "images.npz"} if is_archive else {"root": options.data / "folder"}
    return RunSpec(
        env={"name": "images", "image_size": SIZE, **data, **env},
        base=options.base if options.base == "conv" else {"name": options.base, "weights": "none"},
        side=options.side,
        learner="sidetune",
        train={"batch_size": options.batch, "steps": options.run_steps},
        device={"precision": "fp32"},
    )


def _run(options: argparse.Namespace) -> None:
    import sidetune_core

    with tempfile.TemporaryDirectory() as folder:
        sidetune_core.run(_spec(options, options.variant), Path(folder) / "run", quiet=False)


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    """The seconds of reading the data, and the steps per second of each job, by variant."""
    reading: dict[str, float] = {}
    rates: dict[str, Any] = {}
    for alike in (("train", "read"), ("augmented",)):
        jobs = [job for job in alike if job in options.jobs]
        if not jobs:
            continue
        trainers = {variant: Trainer(options, variant, jobs) for variant in VARIANTS}
        reading = reading or {variant: trainer.reading for variant, trainer in trainers.items()}
        for job in jobs:
            steps = [trainer.read if job == "read" else trainer.train for trainer in trainers.values()]
            for step in steps:
                step()  # fills the feature cache
            timed = [[step() for step in steps] for _ in range(options.repeats)]
            rates[job] = [
                [options.steps / seconds for seconds in column] for column in zip(*timed, strict=True)
            ]
    return {"reading": reading, "rates": rates}


class Trainer:
    """One learner and the first task of one env."""

    def __init__(self, options: argparse.Namespace, variant: str, jobs: Sequence[str]) -> None:
        from sidetune_core.assembly.build import build_learner, build_stream
        from sidetune_core.config.resolve import resolve
        from sidetune_core.feature_cache.cache import GIB, FeatureCache
        from sidetune_core.interfaces.training import members
        from sidetune_core.system import device
        from sidetune_core.training.optimizer import make_optimizer

        augment = {"augment": "crop-flip"} if "augmented" in jobs else {}
        resolved = resolve(_spec(options, variant, **augment))
        stream = build_stream(resolved)
        began = time.perf_counter()
        (self._task,) = stream.tasks()
        self.reading = time.perf_counter() - began
        self._options = options
        self._clock = time.process_time if options.clock == "cpu" else time.perf_counter
        self._learner, machine = build_learner(resolved, stream), device.choose(resolved.device)
        trainable = self._learner.start(self._task)
        machine.place(self._learner)
        self._learner.requires_grad_(False).eval()
        for member in members(trainable):
            member.requires_grad_(True)
        self._cache = FeatureCache(limit=2 * GIB, taps=(), info=lambda text: None)
        self._cache.attach(self._learner, machine.arithmetic)
        self._optimizer = make_optimizer(self._learner, resolved.train, trainable)

    def train(self) -> float:
        """Seconds of the first training steps."""
        assert self._optimizer is not None
        began = self._clock()
        for batch in self._batches():
            output = self._learner(batch.inputs, self._task.id)
            self._optimizer.zero_grad()
            self._task.loss(output.float(), batch).mean().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return self._clock() - began

    def read(self) -> float:
        """Seconds of reading their batches."""
        began = self._clock()
        for _ in self._batches():
            pass
        return self._clock() - began

    def _batches(self) -> Iterator[Any]:
        import torch

        from sidetune_core.interfaces.tasks import Order

        batches = self._task.train(lambda inputs: torch.empty(0), Order(0, self._options.batch))
        return itertools.islice(batches, self._options.steps)


if __name__ == "__main__":
    main()
