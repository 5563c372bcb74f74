"""Weights read and written as data: no file that is read here can run code."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn

from sidetune_core.errors import WeightsError, shorten
from sidetune_core.hashing import file_digest
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.io.cache_folders import home
from sidetune_core.storage.atomic import write_bytes

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Published:
    """A published file of weights, identified by its hash."""

    file: str
    url: str
    sha256: str
    holds_objects: bool = False
    """Whether it is a pickle of Python objects, of which only the tensors are read."""


MAX_UNCHECKED_BYTES = 2**28
"""Archives of tensors that unpack to at most this size are read whatever their compression."""
MAX_COMPRESSION_RATIO = 2


def load_weights(
    module: nn.Module,
    choice: str,
    *,
    owner: str,
    packaged: Path | None = None,
    published: Published | None = None,
    prefix: str = "",
) -> None:
    """Load the weights that the option ``weights`` of a base or side selects.

    Args:
        module: the network; loaded in place.
        choice: ``packaged``, ``authors`` (the file that the method's authors published), ``none`` (keep the
            random weights), or a path. Of a file of Python objects, only the tensors are read; its code is
            not run.
        owner: for messages, such as ``base 'resnet44'``.
        packaged: the file in the package, if there is one.
        published: the authors' file, if there is one.
        prefix: removed from the keys of a file, such as ``module.``.

    Raises:
        WeightsError: the file is missing, unsafe to read, or of another architecture.
    """
    if choice == "none":
        return
    if choice == "packaged":
        if packaged is None or not packaged.is_file():
            raise WeightsError(
                f"{owner} has no packaged weights; choose 'none' (random weights) or the path of a file"
            )
        path, tensors = packaged, read_tensors(packaged)
    elif choice == "authors":
        if published is None:
            raise WeightsError(
                f"the authors published no weights of {owner}; choose 'packaged', 'none' or a file"
            )
        path = fetch(published)
        if published.holds_objects:
            from sidetune_core.storage.legacy_pickle import load_tensors  # only a published file needs it

            tensors = _state_dict(load_tensors(path), path)
        else:
            tensors = read_tensors(path)
    else:
        path = Path(choice).expanduser()
        tensors = read_tensors(path, skip_objects=True)
        prefix = prefix or parallel_prefix(tensors)
    fill(module, tensors, str(path), prefix)


PARALLEL = "module."
"""Prefix of the keys of networks that were trained in `torch.nn.DataParallel`."""


def parallel_prefix(tensors: Tensors) -> str:
    """`PARALLEL` if all keys begin with it, otherwise an empty text."""
    return PARALLEL if tensors and all(key.startswith(PARALLEL) for key in tensors) else ""


def read_tensors(path: Path, skip_objects: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickled state dict.

    Args:
        path: the file.
        skip_objects: of a file that contains Python objects, which could run code, read the state dict by
            `legacy_pickle`, which runs none.

    Raises:
        WeightsError: the file is missing or damaged, or contains Python objects.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_unpacked(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error has the information
            content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        objects = re.search(r"\bGLOBAL (\S+)", str(error))
        if objects is None:
            raise WeightsError(
                f"cannot read weights from {path}: it is damaged, or was not written by torch.save"
            ) from error
        if skip_objects:
            return _without_objects(path)
        raise WeightsError(
            f"{path} is a pickle of Python objects ({objects[1]}), which could run code when they are read; "
            f"convert it, which runs no code: sidetune convert {path}"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0].removesuffix(": ")
        raise WeightsError(f"cannot read weights from {path} ({reason})") from error
    return _state_dict(content, path)


def _without_objects(path: Path) -> dict[str, Tensor]:
    """The state dict of a pickle of Python objects, which are left out.

    Raises:
        WeightsError: it has none.
    """
    from sidetune_core.storage.legacy_pickle import load_tensors  # few files need it

    try:
        content = load_tensors(path)
    except Exception as error:  # a damaged file can make the unpickler raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"cannot read weights from {path} ({reason})") from error
    return _state_dict(content, path)


def _check_unpacked(path: Path) -> None:
    """Check that a zip archive, as torch.save writes it, does not unpack to far more than its size.

    Raises:
        WeightsError: it does.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION_RATIO * path.stat().st_size):
        raise WeightsError(f"{path} unpacks to {size / 2**30:.1f} GiB; torch.save does not compress")


def fetch(published: Published) -> Path:
    """The local copy of a published file, downloaded once (with progress) and verified by its hash.

    It is cached in the folder ``weights`` of `home`; a file may be put there by hand.

    Raises:
        WeightsError: the download fails, or the hash differs from the published one.
    """
    path = home() / "weights" / published.file
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.sha256)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"cannot download {published.url} ({error}). Download the file on another computer, put it "
                f"at {path}, and run again"
            ) from error
    if file_digest(path) != published.sha256:
        raise WeightsError(f"{path} is not the published file (its SHA-256 differs); delete it and run again")
    return path


def fill(module: nn.Module, tensors: Tensors, source: str, prefix: str = "") -> None:
    """Load `tensors` into `module`, strictly: all keys and shapes must match, except inside a `BufferDict`.

    Args:
        module: the network; loaded in place.
        tensors: by key; ``num_batches_tracked`` of batch norm may be absent, as in old files.
        source: the origin of the tensors, for messages.
        prefix: removed from the keys that begin with it, such as ``module.``.

    Raises:
        WeightsError: with the missing and unexpected keys and the shapes that differ.
    """
    free = tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, BufferDict))
    own = {key: value for key, value in module.state_dict().items() if not key.startswith(free)}
    given = {key.removeprefix(prefix): value for key, value in tensors.items()}
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    problems = []
    if missing := sorted(own.keys() - given.keys() - optional):
        problems.append(f"missing keys {shorten(missing, 4)}")
    if extra := sorted(key for key in given.keys() - own.keys() if not key.startswith(free)):
        problems.append(f"unexpected keys {shorten(extra, 4)}")
    differing = [
        f"{key} {tuple(given[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in own
        if key in given and isinstance(own[key], Tensor) and given[key].shape != own[key].shape
    ]
    if differing:
        problems.append(f"shapes differ: {shorten(differing, 4)}")
    if problems:
        raise WeightsError(f"state_dict mismatch in {source}: {'; '.join(problems)}")
    module.load_state_dict(given, strict=False)


def write_tensors(
    path: Path,
    tensors: Tensors,
    about: Mapping[str, str] | None = None,
    unsynced: set[Path] | None = None,
) -> None:
    """Write a safetensors file by `atomic.write_bytes`. Tensors that share memory are written separately.

    `about` is written to the header as JSON under the single key ``about``: safetensors writes several keys
    in an order that varies, and equal content must give equal bytes.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        flat = value.detach().contiguous().cpu()
        if flat.untyped_storage().data_ptr() in seen:
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        apart[key] = flat
    header = {"about": json.dumps(about, sort_keys=True)} if about else {}
    content = safetensors.torch.save(apart, header if apart or header else None)  # {} is damaged
    write_bytes(path, content, unsynced)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved: the object itself, or its entry ``state_dict``."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} has no state dict: expected tensors by name, at the top or under the key 'state_dict'"
        )
    return {str(key): value for key, value in content.items()}
