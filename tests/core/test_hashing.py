"""Digests of tensors."""

from __future__ import annotations

import hashlib

import torch

from sidetune_core.hashing import tensor_digest


def test_the_digest_of_one_tensor_is_the_hash_of_its_description_and_bytes() -> None:
    expected = hashlib.sha256(b'["a", "torch.float32", [1]]' + b"\x00\x00\x80\x3f").digest()
    assert tensor_digest("a", torch.ones(1)) == expected
