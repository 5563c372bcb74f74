"""`sidetune convert`: a file of weights as safetensors."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from sidetune_core.io.printable import counted, one_line

SHOWN = 12
"""Tensors that are listed without --all."""


def convert(file: Positional[Path], out: Path | None = None, all_tensors: bool = False) -> int:
    """Write a file of weights as .safetensors next to it, and print its tensors and what they fit.

    sidetune convert curvature-distilled.pth

    Reads files of torch.save, also those of whole objects, whose code is not run: only the tensors of the
    state dict are read.

    Args:
        file: the file: .pth, .pt, .dat.
        out: the new file; default: the same name with .safetensors.
        all_tensors: list all tensors, not only the first ones.
    """
    from sidetune_core.serving.convert import SUFFIX, fitting
    from sidetune_core.serving.convert import convert as write

    target = out if out is not None else file.with_suffix(SUFFIX)
    tensors = write(file, target)
    width = max(map(len, tensors), default=0)
    for index, (key, value) in enumerate(tensors.items()):
        if index == SHOWN and not all_tensors and len(tensors) > SHOWN + 1:
            print(f"... and {len(tensors) - SHOWN} more (--all-tensors)")
            break
        kind = str(value.dtype).removeprefix("torch.")
        print(one_line(f"{key:{width}}  {kind} {tuple(value.shape)}"))
    values = sum(value.numel() for value in tensors.values())
    print()
    print(one_line(f"{target}: {counted(len(tensors), 'tensor')}, {values:,} values"))
    fits = fitting(tensors)
    for fit in fits:
        name = fit.kind.name
        print(one_line(f"use it with  --{name} {fit.name} --{name}.weights {target}"))
    if not fits:
        print(
            "no installed component has these tensors with its default options; pass the file to a component "
            f"of the same network: --base.weights {target} or --side.weights {target}"
        )
    return 0
