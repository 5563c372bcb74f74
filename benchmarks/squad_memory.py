"""Side-tuning a text encoder compared with fine-tuning it: peak memory and time of a training step.

    python benchmarks/squad_memory.py [--length 384] [--batch 8] [--steps 6] [--base minilm] [--sides encoder
    ladder-text]

Questions are synthetic, so that every window is full. Each variant runs in its own process: ``finetune`` and,
for each side, ``cold``, where the base computes every batch and its outputs are cached, and ``warm``, where
all outputs are in the cache. The first two steps are not timed.

Printed: the median seconds of a step (``--clock cpu``: of processor time, for shared machines), the speed-up
over fine-tuning, the peak memory of training, which is the growth of the process since its networks were
built (on a GPU, what PyTorch allocated), its ratio to fine-tuning's, and both for the whole process, imports
and frozen weights included.
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
"""Batches that env squad draws together: with a multiple of them, no window occurs twice."""


def main() -> None:
    """Measure every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=384, help="tokens of every window")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
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
    variants = ["finetune", *(f"{side} {state}" for side in options.sides for state in ("cold", "warm"))]
    measured = {}
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
            measured[variant] = json.loads(done.stdout.splitlines()[-1])
            print(f"# {variant}: {measured[variant]}", file=sys.stderr)
    full = measured["finetune"]
    job = f"{options.base}, {options.length} tokens, batch {options.batch}, {options.precision}"
    print(f"{job}, median of {options.steps} steps")
    columns = f"{'training MB':>13}{'ratio':>8}{'process MB':>12}{'ratio':>8}"
    print(f"{'variant':<20}{'s/step':>9}{'speed-up':>15}{columns}")
    for variant, values in measured.items():
        speedup = full["seconds"] / values["seconds"]
        memory = f"{values['training'] / 1e6:>13.0f}{values['training'] / full['training']:>8.2f}"
        memory += f"{values['process'] / 1e6:>12.0f}{values['process'] / full['process']:>8.2f}"
        print(f"{variant:<20}{values['seconds']:>9.3f}{speedup:>15.2f}{memory}")


def _write_questions(path: Path, length: int, count: int) -> None:
    """One question per window, about contexts that fill a window each; twenty more are the test set."""
    draw = random.Random(0)
    vocabulary = ("stone", "river", "king", "year", "north", "church", "tower", "city", "long", "built")
    paragraphs = []
    for index in range(count + 20):
        context = " ".join(draw.choice(vocabulary) for _ in range(2 * length))
        answer = context.split()[0]
        question = {
            "id": str(index),
            "question": "What is it?",
            "answers": [{"text": answer, "answer_start": 0}],
        }
        paragraphs.append({"context": context[: _end_of_word(context, length - 7)], "qas": [question]})
    articles = [
        {"title": "train", "paragraphs": paragraphs[20:]},
        {"title": "test", "paragraphs": paragraphs[:20]},
    ]
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")


def _end_of_word(text: str, n: int) -> int:
    """The end of the n-th word. A word is one token; the question has four, and three are special."""
    return len(" ".join(text.split()[:n]))


def _measure(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from torch import nn

    from sidetune_core.assembly.build import build_learner, build_stream
    from sidetune_core.config.resolve import resolve
    from sidetune_core.config.spec import RunSpec
    from sidetune_core.feature_cache.cache import GIB, FeatureCache
    from sidetune_core.interfaces.tasks import Order
    from sidetune_core.interfaces.training import members
    from sidetune_core.system import device
    from sidetune_core.training.optimizer import make_optimizer

    side, _, state = options.child.partition(" ")
    minilm = options.base == "minilm"
    windows = {"max_length": options.length, "doc_stride": options.length // 4}
    env = {"name": "squad", "train_file": str(options.questions), "test_articles": ("test",), **windows}
    spec = RunSpec(
        base="minilm" if minilm else {"name": "transformer", "model": options.base},
        side=side if state else None,
        learner="sidetune" if state else "finetune",
        env=env if minilm else {**env, "tokenizer": options.base},
        train={"batch_size": options.batch},
        device={"precision": options.precision},
    )
    composition = resolve(spec)
    stream = build_stream(composition)
    learner, machine = build_learner(composition, stream), device.choose(composition.device)
    (task,) = stream.tasks()
    trainable = learner.start(task)
    machine.place(learner)
    learner.requires_grad_(False).eval()
    for member in members(trainable):
        member.requires_grad_(True)
        if isinstance(member, nn.Module):
            member.train()
    taps = None if state and composition.components["side"].cls.needs_taps else ()
    cache = FeatureCache(limit=64 * GIB, taps=taps, info=lambda text: print(text, file=sys.stderr))
    cache.attach(learner, machine.arithmetic)
    training = task.train(lambda inputs: torch.empty(0), Order(0, options.batch))
    batches = [machine.move_batch(next(training)) for _ in range(options.steps + UNTIMED)]
    ids = {id for batch in batches for id in batch.ids.tolist()}
    assert len(ids) == options.batch * len(batches)
    for batch in batches:
        assert batch.inputs["tokens"].shape[1] == options.length
        assert batch.inputs["mask"].all()
    before = _peak(machine.device)
    optimizer = make_optimizer(learner, composition.train, trainable)
    assert optimizer is not None
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
    """Peak memory in bytes, of the process or on the GPU."""
    import torch

    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
