"""Files of tensors, of which those that are asked for are read and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.errors import RunError, shorten
from sidetune_core.io.files import check_regular
from sidetune_core.storage.unusable import Unusable, at_present


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of tensors, of which those that are asked for are read.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    with at_present(path):
        check_regular(path)
        with path.open("rb"):
            pass
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise Unusable(path, f"is damaged ({error})") from error
    except (MemoryError, OSError, RuntimeError) as error:
        reason = "not enough memory" if isinstance(error, MemoryError) else error
        raise RunError(f"cannot read {path}: {reason}; nothing was changed") from error


def read_own(path: Path, digests: Mapping[str, str], dropped: bool = False) -> dict[str, Tensor]:
    """Tensors of a file, checked against their digests.

    Args:
        path: of the file.
        digests: of the tensors to read, by name.
        dropped: leave out those that ``--keep last`` has dropped.

    Raises:
        Unusable, RunError: see `Chain.read`.
    """
    tensors = {}
    with opened(path) as file:
        names: Collection[str] = set(file.keys())
        missing = sorted(digests.keys() - names)
        if missing and not dropped:
            raise Unusable(
                path, f"lacks {shorten(missing)}; --keep last drops tensors that later tasks have changed"
            )
        for name, digest in digests.items():
            if name in names:
                tensors[name] = file.get_tensor(name)
                check_digest(path, name, tensors[name], digest)
    return tensors


def check_digest(path: Path, name: str, tensor: Tensor, digest: str) -> None:
    """Check a tensor that was read from a file.

    Raises:
        Unusable: its digest is another one.
    """
    if hashing.tensor_digest(name, tensor).hex() != digest:
        raise Unusable(path, f"is damaged (its SHA-256 differs from the recorded one for {name})")
