"""Reading and writing weights as data: nothing that is read here can run code."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn

from sidetune_core.errors import WeightsError
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.storage.atomic import home, write_bytes
from sidetune_core.storage.legacy_pickle import load_tensors

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Published:
    """A file of weights that somebody publishes, known by its hash."""

    file: str
    url: str
    sha256: str
    holds_objects: bool = False
    """Whether it is a pickle of whole objects, of which only the tensors are read."""


def load_weights(
    module: nn.Module,
    choice: str,
    *,
    owner: str,
    packaged: Path | None = None,
    published: Published | None = None,
    prefix: str = "",
) -> None:
    """Fill a base or a side with the weights that its option ``weights`` chooses.

    Args:
        module: what to fill, in place.
        choice: ``packaged``, ``authors`` (the file that the method's authors published), ``none`` (keep the random
            weights), or a path.
        owner: for messages, such as ``base 'resnet44'``.
        packaged: the file that comes with the package, if there is one.
        published: the authors' file, if there is one.
        prefix: taken off the keys of a foreign file, such as ``module.``.

    Raises:
        WeightsError: there are no such weights, they are unsafe to read, or of another architecture.
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
                f"the authors published no weights of {owner}; choose 'packaged', 'none' or the path of a file"
            )
        path = fetch(published)
        tensors = _state_dict(load_tensors(path), path) if published.holds_objects else read_tensors(path)
    else:
        path = Path(choice).expanduser()
        tensors = read_tensors(path)
    fill(module, tensors, str(path), prefix)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, or of a pickled state dict that holds nothing but tensors.

    Raises:
        WeightsError: the file is missing, damaged, or holds Python objects (reading those would run their code).
    """
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in the error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = re.search(r"\bGLOBAL (\S+)", str(error))
        if objects is None:
            raise WeightsError(
                f"{path} cannot be read as weights: it is damaged, or no file of torch.save"
            ) from error
        raise WeightsError(
            f"{path} is a pickle that holds Python objects ({objects[1]}), and reading those would run their code; "
            "save its state dict as .safetensors, or with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0].removesuffix(": ")
        raise WeightsError(f"{path} cannot be read as weights ({reason})") from error
    return _state_dict(content, path)


def fetch(published: Published) -> Path:
    """The local copy of a published file, downloaded once (with progress) and checked by its hash.

    It is kept under ``$SIDETUNE_HOME/weights``, by default ``~/.cache/sidetune/weights``; a file put there by hand does as well.

    Raises:
        WeightsError: it cannot be downloaded, or its hash is not the published one.
    """
    path = home() / "weights" / published.file
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.sha256)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"cannot download {published.url} ({error}). Get the file on another machine, put it at {path}, and run again"
            ) from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != published.sha256:
        raise WeightsError(f"{path} is not the published file (its SHA-256 differs); delete it and run again")
    return path


def fill(module: nn.Module, tensors: Tensors, source: str, prefix: str = "") -> None:
    """Load `tensors` into `module`, every key and every shape; a `BufferDict` inside it takes what there is.

    Args:
        module: what to fill, in place.
        tensors: by key; ``num_batches_tracked`` of a batch norm may be absent, as in old files.
        source: where they come from, for the message.
        prefix: taken off the keys that begin with it, such as ``module.``.

    Raises:
        WeightsError: which keys are missing or left over, and which shapes differ.
    """
    free = tuple(f"{name}." for name, one in module.named_modules() if isinstance(one, BufferDict))
    own = {key: value for key, value in module.state_dict().items() if not key.startswith(free)}
    given = {key.removeprefix(prefix): value for key, value in tensors.items()}
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    problems = []
    if missing := sorted(own.keys() - given.keys() - optional):
        problems.append(f"lacks {_some(missing)}")
    if extra := sorted(key for key in given.keys() - own.keys() if not key.startswith(free)):
        problems.append(f"has {_some(extra)}, which the network has not")
    differing = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in given and isinstance(own[key], Tensor) and given[key].shape != own[key].shape
    ]
    if differing:
        problems.append(f"differs in shape: {_some(differing)}")
    if problems:
        raise WeightsError(
            f"the weights of {source} are of another architecture: the file {'; it '.join(problems)}"
        )
    module.load_state_dict(given, strict=False)


def write_tensors(path: Path, tensors: Tensors, about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. Tensors that share memory are written once each.

    `about` goes into the header as JSON under the one key ``about``: safetensors writes several keys in an order that changes from
    time to time, and the same content is to be the same bytes.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        flat = value.detach().contiguous().cpu()
        if flat.untyped_storage().data_ptr() in seen:
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        apart[key] = flat
    write_bytes(
        path, safetensors.torch.save(apart, {"about": json.dumps(about, sort_keys=True)} if about else {})
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the tensors in what a training script saved: a state dict, or a record that has one under ``state_dict``."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} holds no state dict: expected tensors by name, alone or under the key 'state_dict'"
        )
    return {str(key): value for key, value in content.items()}


def _some(words: list[str]) -> str:
    shown = ", ".join(words[:4])
    return f"{shown} and {len(words) - 4} more" if len(words) > 4 else shown
