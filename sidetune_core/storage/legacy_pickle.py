"""Tensors from a pickle of Python objects, without running the code that it refers to."""

from __future__ import annotations

import collections
import pickle
import types
import warnings
from pathlib import Path
from typing import IO, Any

import torch

_HARMLESS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}


class _Inert:
    """Stands for any object that is not a tensor: accepts every call of the unpickler and does nothing."""

    dump_patches = False  # torch reads it from the class of a saved module

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


class _TensorsOnly(pickle.Unpickler):
    """Resolves ordered dicts and the function that rebuilds a tensor; every other name is `_Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        return _HARMLESS.get((module, name), _Inert)


def load_tensors(path: Path) -> Any:
    """The content of a file of `torch.save`, with every object that is neither a tensor nor a plain container
    left empty.

    This is for files that were saved as whole objects, as the published FCN4 was. No name but those of
    `_HARMLESS` is resolved, so no code of the file runs.
    """
    reader = types.SimpleNamespace(__name__="tensors_only", Unpickler=_TensorsOnly, load=_load)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the source code of classes that are not loaded
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)


def _load(file: IO[bytes], **options: Any) -> Any:
    return _TensorsOnly(file, **options).load()
