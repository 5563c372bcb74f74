"""A fingerprint of image files that does not depend on what the run's seed holds out."""

from __future__ import annotations

import hashlib

from .identity import FileDigests
from .plan import Plan

BITS = 256


def content_digest(plan: Plan, digests: FileDigests) -> str:
    """The sum of the SHA-256 of all files with their names and targets, modulo 2^256: the same for every
    division into splits, and computed without a list of all files."""
    total = 0
    for images in plan.sets:
        for files in images.splits.values():
            named = digests.of(files, images.base)
            for (name, digest), target in zip(named, files.targets.tolist(), strict=True):
                label = images.names[target] if images.kind == "class" else target
                line = f"{images.name!r} {name!r} {digest} {label!r}"
                total += int.from_bytes(hashlib.sha256(line.encode(errors="surrogateescape")).digest(), "big")
    return f"{total % 2**BITS:064x}"
