"""A check across processes: sets of texts have another order in each, and what is made from them too."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import torch

from sidetune_core.config import kinds, registry
from sidetune_core.config.options import structure
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED, Broken, Skipped

HASH_SEEDS = ("1", "2")
TIMEOUT = 120.0


def order_is_the_same_in_every_process(
    kind: str, name: str, cls: type[Any], options: Mapping[str, Any]
) -> None:
    """What is made from a set does not depend on Python's hash seed, which differs between processes.

    Two processes are started only if the class has a set in its code.
    """
    if not _has_a_set(cls):
        return
    request = json.dumps(
        {"kind": kind, "name": name, "options": dict(options), "path": sys.path}, default=str
    )
    program = f"from {__name__} import main; main()"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for seed in HASH_SEEDS
    ]
    digests = [process.communicate(request, timeout=TIMEOUT)[0].strip() for process in started]
    if any(process.returncode for process in started):
        raise Skipped("it cannot be built in another process")
    if len(set(digests)) > 1:
        raise Broken(
            "it differs between two processes of one seed, since it is made in the order of a set; "
            "use a tuple or sorted(), since processes and resumed runs must agree"
        )


def _has_a_set(cls: type[Any]) -> bool:
    """Whether a method of the class, or of a class of its module, makes a set or a hash."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(sys.modules[cls.__module__])))
    except (OSError, SyntaxError, KeyError, TypeError):
        return False
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return any(_is_unordered(node) for function in functions for node in ast.walk(function))


def _is_unordered(node: ast.AST) -> bool:
    if isinstance(node, ast.For | ast.comprehension):
        return _is_set(node.iter)
    call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    if call and node.func.id == "hash":  # type: ignore[attr-defined]
        return True
    return bool(
        call
        and node.func.id in ("list", "tuple", "enumerate")  # type: ignore[attr-defined]
        and node.args  # type: ignore[attr-defined]
        and _is_set(node.args[0])  # type: ignore[attr-defined]
    )


def _is_set(node: ast.AST) -> bool:
    """Whether an expression is a set: a literal, a comprehension, or a call of ``set``."""
    if isinstance(node, ast.BinOp):
        return _is_set(node.left) or _is_set(node.right)
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return isinstance(node, ast.Set | ast.SetComp) or (
        named and node.func.id in ("set", "frozenset")  # type: ignore[attr-defined]
    )


def main() -> None:
    """Build the component named on standard input, and write a digest of it to standard output."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    kind = kinds.kind(request["kind"])
    cls = registry.load(registry.find(kind, request["name"], trust_local_code=True))
    config = structure(cls.Config, request["options"], kind.name)
    print(_digest(kind.name, cls, config))


def _digest(kind: str, cls: type[Any], config: Any) -> str:
    """A digest of the names and values of a component's tensors, or of an env's first batches."""
    from sidetune_core.testing import sample, specimen, stream, subject

    digest = hashlib.sha256()
    if kind == "env":
        env = cls(config, SEED)
        for task in env.tasks():
            batch = next(stream.batches(task))
            digest.update(f"{task.id} {batch.ids.tolist()} {batch.targets.tolist()}".encode())
        env.close()
        return digest.hexdigest()
    if kind == "learner":
        chosen = cls.needs | cls.optional_components
        components = subject.own_components((64,), "side" in chosen, "merger" in chosen)
        made = subject.Subject(cls, config, components, sample.tasks)
        module: torch.nn.Module = made.trained.learner
    else:
        makes = {
            "base": lambda: specimen.bases(cls, config, sample.INPUTS, sample.images),
            "side": lambda: specimen.sides(
                cls, config, specimen.tiny_base((64,)), sample.INPUTS, sample.images
            ),
            "merger": lambda: specimen.mergers(cls, config, (64,), 2),
        }
        with seeded(SEED, "build"):
            module = makes[kind]()().module
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.tolist()}".encode())
    return digest.hexdigest()
