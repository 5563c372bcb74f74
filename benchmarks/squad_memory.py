"""Side-tuning a text encoder beside fine-tuning it: peak memory and time of a training step, as ratios.

    python benchmarks/squad_memory.py [--length 384] [--batch 8] [--steps 6] [--base minilm] [--sides encoder ladder-text]

Questions are made up so that every window is full. Each variant is a process of its own: ``finetune``; and, for each side, ``cold``, where
the base computes every batch anew and its outputs are stored, and ``warm``, where all of them are there. The first two steps are not timed.

Printed: the median seconds of a step (``--clock cpu``: of processor time, for machines that others use as well), how many times as fast as
fine-tuning that is, the peak memory of training, which is what the process grew by since its networks were built (on a GPU, what PyTorch
allocated), and that as a share of fine-tuning's, and the same for the whole process, imports and frozen weights included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNTIMED = 2
BUCKET = 16
"""Batches that env squad draws together: with so many, or a multiple, no window comes twice."""


def main() -> None:
    """Measure every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=384, help="tokens of every window")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="that are timed")
    parser.add_argument(
        "--base", default="minilm", help="'minilm', or the name or folder of a model for base 'transformer'"
    )
    parser.add_argument("--sides", nargs="+", default=["encoder", "ladder-text"])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--questions", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measure(options)))
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    variants = ["finetune", *(f"{side} {store}" for side in options.sides for store in ("cold", "warm"))]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.json"
        drawn = -(-(options.steps + UNTIMED) // BUCKET) * BUCKET
        _write_questions(questions, options.length, options.batch * drawn)
        for variant in variants:
            command = [
                sys.executable,
                __file__,
                *sys.argv[1:],
                "--child",
                variant,
                "--questions",
                str(questions),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[variant] = json.loads(done.stdout.splitlines()[-1])
            print(f"# {variant}: {found[variant]}", file=sys.stderr)
    full = found["finetune"]
    print(
        f"{options.base}, {options.length} tokens, batch {options.batch}, {options.precision}, median of {options.steps} steps"
    )
    print(
        f"{'variant':<20}{'s/step':>9}{'times as fast':>15}{'training MB':>13}{'share':>8}{'process MB':>12}{'share':>8}"
    )
    for variant, one in found.items():
        faster = full["seconds"] / one["seconds"]
        share, whole = one["training"] / full["training"], one["process"] / full["process"]
        training, process = one["training"] / 1e6, one["process"] / 1e6
        print(
            f"{variant:<20}{one['seconds']:>9.3f}{faster:>15.2f}{training:>13.0f}{share:>8.2f}{process:>12.0f}{whole:>8.2f}"
        )


def _write_questions(path: Path, length: int, count: int) -> None:
    """As many questions as windows, about contexts that fill one each; twenty more are to be tested on."""
    draw = random.Random(0)
    words = ("stone", "river", "king", "year", "north", "church", "tower", "city", "long", "built")
    paragraphs = []
    for number in range(count + 20):
        context = " ".join(draw.choice(words) for _ in range(2 * length))
        answer = context.split()[0]
        question = {
            "id": str(number),
            "question": "What is it?",
            "answers": [{"text": answer, "answer_start": 0}],
        }
        paragraphs.append({"context": context[: _end_of_word(context, length - 7)], "qas": [question]})
    articles = [
        {"title": title, "paragraphs": some}
        for title, some in (("learnt", paragraphs[20:]), ("tested", paragraphs[:20]))
    ]
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")


def _end_of_word(text: str, words: int) -> int:
    """Where so many words end; each is one token, and the question takes four beside three special ones."""
    return len(" ".join(text.split()[:words]))


def _measure(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from torch import nn

    from sidetune_core.assembly.build import build_learner, build_stream
    from sidetune_core.config.resolve import resolve
    from sidetune_core.config.spec import RunSpec
    from sidetune_core.feature_cache.cache import GIB, FeatureCache
    from sidetune_core.interfaces.tasks import Order
    from sidetune_core.system import device
    from sidetune_core.training.optimizer import make_optimizer

    side, _, state = options.child.partition(" ")
    minilm = options.base == "minilm"
    windows = {"window": options.length, "stride": options.length // 4}
    env = {"name": "squad", "train": str(options.questions), "test_articles": "tested", **windows}
    spec = RunSpec(
        base="minilm" if minilm else {"name": "transformer", "model": options.base},
        side=side if state else None,
        learner="sidetune" if state else "finetune",
        env=env if minilm else {**env, "tokenizer": options.base},
        train={"precision": options.precision, "batch": options.batch},
    )
    composition = resolve(spec)
    stream = build_stream(composition)
    learner, machine = build_learner(composition, stream), device.choose(composition.device)
    (task,) = stream.tasks()
    movable = learner.start(task)
    machine.place(learner)
    learner.requires_grad_(False).eval()
    for thing in movable:
        thing.requires_grad_(True)
        if isinstance(thing, nn.Module):
            thing.train()
    taps = bool(state) and composition.components["side"].cls.needs_taps
    store = FeatureCache(limit=64 * GIB, keep_taps=taps, info=lambda text: print(text, file=sys.stderr))
    store.attach(learner, machine.arithmetic)
    training = task.train(lambda inputs: torch.empty(0), Order(0, options.batch))
    batches = [machine.move_batch(next(training)) for _ in range(options.steps + UNTIMED)]
    assert len({number for batch in batches for number in batch.ids.tolist()}) == options.batch * len(batches)
    assert all(
        batch.inputs["tokens"].shape[1] == options.length and batch.inputs["mask"].all() for batch in batches
    )
    before = _peak(machine.device)
    optimizer = make_optimizer(learner, composition.train)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    if state == "warm":
        with torch.no_grad(), machine.autocast():
            for batch in batches:
                learner(batch.inputs, task.id)
    seconds = []
    for batch in batches:
        began = clock()
        with machine.autocast():
            output = learner(batch.inputs, task.id)
        optimizer.zero_grad()
        task.loss(output.float(), batch).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    after = _peak(machine.device)
    return {"seconds": statistics.median(seconds[UNTIMED:]), "training": after - before, "process": after}


def _peak(device: object) -> int:
    """Bytes at the peak, of the process or of the GPU."""
    import torch

    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
