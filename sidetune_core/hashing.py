"""SHA-256 digests of tensors and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sidetune_core.io.files import check_regular

MAX_COPIED_BYTES = 2**24
"""Of a tensor that is not contiguous, such as a mapped file, at a time."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: equal only for bit-identical tensors."""
    return combine(digests(tensors))


def combine(digests: Mapping[str, str]) -> str:
    """The `fingerprint` of tensors from their `digests`."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(bytes.fromhex(digests[name]))
    return digest.hexdigest()


def tensor_digest(name: str, tensor: Tensor) -> bytes:
    """SHA-256 over one tensor's name, type, shape and bytes."""
    tensor = tensor.detach()
    digest = hashlib.sha256(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    if tensor.numel():
        for part in [tensor] if tensor.is_contiguous() else torch.split(tensor, _rows_at_a_time(tensor)):
            digest.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _rows_at_a_time(tensor: Tensor) -> int:
    """How many rows of a tensor that is not contiguous are copied at a time."""
    row_bytes = tensor[0].numel() * tensor.element_size()
    return max(1, MAX_COPIED_BYTES // row_bytes)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor (see `tensor_digest`)."""
    return {name: tensor_digest(name, tensor).hex() for name, tensor in tensors.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
