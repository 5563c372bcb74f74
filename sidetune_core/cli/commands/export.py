"""`sidetune export`: the adapter of a task, its network for other programs, or the weights of a component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, check_outside
from sidetune_core.errors import OptionError, SidetuneError
from sidetune_core.io.printable import counted, one_line
from sidetune_core.storage.run_folder import open_run

if TYPE_CHECKING:
    from sidetune_core.serving.export import Exported
    from sidetune_core.serving.network import Format

ALL = "all"
"""For --task: a sub-folder, or file, for each task."""

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "torch-export": ".pt2"}
"""Ends of the default names of files, by format."""


def export(
    run: Positional[Path],
    task: str | None = None,
    format: Literal["adapter", "onnx", "torchscript", "torch-export"] = "adapter",
    part: str | None = None,
    out: Path | None = None,
    with_base: Switch = False,
    all_tasks: Switch = False,
    licence: str = "",
    half: Switch = False,
    trust_local_code: Switch = False,
) -> int:
    """Write the adapter of a task to a folder, or its network or the weights of a component to a file.

    sidetune export runs/photos --task acme --out acme

    An adapter is all that a task needs besides the base: adapter.safetensors, task.json and a model card,
    README.md. The base is named and hashed, not copied. Load it with sidetune_core.load("acme"), publish it
    with sidetune push.

    sidetune export runs/photos --task acme --format onnx --out acme.onnx

    The network of a task, from a run or an adapter, is for programs without sidetune: base, side, merger and
    head, with the preprocessing of tensors. The file is loaded again and compared with the network.

    sidetune export runs/photos --part sides.acme

    The weights of a component, from the newest checkpoint, are for --base.weights or --side.weights.

    Args:
        run: the run folder; with --format also that of an adapter.
        task: id of a task, or 'all' for one of --out for each.
        format: 'adapter', or the network as a file: for ONNX (pip install 'sidetune[onnx]'), for
            torch.jit.load, or for torch.export.load.
        part: 'base', 'side', 'sides.t0', …; the error for an unknown one lists all of them. Default without
            --task: base.
        out: folder of the adapter, by default the task's id; for other formats a file, by default TASK.onnx,
            TASK.pt or TASK.pt2; for --part a .safetensors file, by default PART.safetensors.
        with_base: include the base's weights, where others cannot get them otherwise.
        all_tasks: include what all tasks of the run use.
        licence: licence of the adapter for its card, such as 'mit'.
        half: for --part: round to 16 bits (IEEE half precision), for half the size.
        trust_local_code: import code that the run names (module:Class), which then can do anything.
    """
    if out is not None:
        check_outside("--out", out, run)
    adapter_flags = {"--with-base": with_base, "--all-tasks": all_tasks, "--licence": licence}
    if task is None:
        _refuse({"--format": format != "adapter", **adapter_flags}, "needs a task: add --task")
        return _export_part(run, part or "base", out, half)
    _refuse({"--part": part, "--half": half}, "and --task exclude each other")
    if format != "adapter":
        _refuse(adapter_flags, f"is for adapters, and --format is {format}")
        return _export_network(run, task, out, format, trust_local_code)
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if out is not None and (named := by_suffix.get(out.suffix)) is not None:
        raise OptionError(
            f"--out {out} has the name of a file, and an adapter is a folder; for that file add "
            f"--format {named}"
        )
    from sidetune_core.serving.export import Exporter

    exporter = Exporter(run, trust_local_code)
    folder = out or Path(task)
    if task == ALL and ALL not in exporter.tasks:
        chosen = {name: folder / name for name in exporter.tasks}
    else:
        chosen = {task: folder}
    for name, path in chosen.items():
        exported = exporter.export(name, path, with_base, all_tasks, licence)
        print("\n".join(map(one_line, _lines(exported))))
    return 0


def _refuse(flags: Mapping[str, object], reason: str) -> None:
    """Refuse flags that are given."""
    for flag, given in flags.items():
        if given:
            raise OptionError(f"{flag} {reason}")


def _export_network(run: Path, task: str, out: Path | None, format: Format, trust: bool) -> int:
    from sidetune_core.serving.model import load
    from sidetune_core.serving.network import write_network

    model = load(run, device="cpu", trust_local_code=trust)
    if task == ALL and ALL not in model.tasks:
        folder = out or Path()
        paths = {name: folder / f"{name}{SUFFIXES[format]}" for name in model.tasks}
    else:
        paths = {task: out or Path(f"{task}{SUFFIXES[format]}")}
    for name, path in paths.items():
        write_network(model, name, path, format)
        print(f"{one_line(path)}: task {one_line(name)}, {_megabytes(path.stat().st_size)}")
        if model.module(name).rounds:
            print("  note: it computes in float32, and the run in bfloat16: outputs differ by that rounding")
    return 0


def _lines(exported: Exported) -> list[str]:
    """What was written, with sizes, and what the user should know."""
    from sidetune_core.serving.adapter_folder import ADAPTER_FILE
    from sidetune_core.serving.base_weights import BASE_FILE

    size = exported.sizes[ADAPTER_FILE]
    lines = [f"{exported.folder}: task {exported.task}, adapter {_megabytes(size)}"]
    base = exported.base
    if base is None:
        lines[0] += ", a whole network: it needs no base"
    else:
        included = ", included" if BASE_FILE in exported.sizes else ""
        lines[0] += f"; base {_megabytes(base.bytes)}{included}; ratio 1 : {base.bytes / size:.1f}"
    if len(exported.tasks) > 1:
        others = [name for name in exported.tasks if name != exported.task]
        lines.append(f"  with {counted(len(others), 'further task')}: {', '.join(others)}")
    return [*lines, *(f"  note: {note}" for note in exported.notes)]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _export_part(run: Path, part: str, out: Path | None, half: bool) -> int:
    from sidetune_core.storage import checkpoint
    from sidetune_core.storage.weights import write_tensors

    folder = open_run(run)
    path = checkpoint.latest(folder.checkpoints)
    if path is None:
        raise SidetuneError(f"{run} has no checkpoint yet")
    tensors = checkpoint.read_part(path, part)
    out = out or Path(f"{part}.safetensors")
    if out.suffix != ".safetensors":
        raise SidetuneError(f"weights are written as .safetensors, not '{out.name}'")
    if half:
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
        overflowing = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if overflowing:
            raise SidetuneError(f"{overflowing[0]} of {run} overflows half precision; leave out --half")
    origin = {"composition": str(folder.read_json("run.json")["composition"]), "part": part}
    write_tensors(out, tensors, origin)
    elements = sum(tensor.numel() for tensor in tensors.values())
    print(f"{one_line(out)}: {len(tensors)} tensors, {elements:,} elements")
    return 0
