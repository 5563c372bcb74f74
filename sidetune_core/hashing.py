"""SHA-256 digests of tensors and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sidetune_core.io.files import check_regular


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
    flat = tensor.detach().contiguous().cpu()
    digest = hashlib.sha256(json.dumps([name, str(flat.dtype), list(flat.shape)]).encode())
    if flat.numel():
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


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
