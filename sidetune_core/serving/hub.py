"""Adapters on the Hugging Face Hub: ``hf://owner/name`` or ``hf://owner/name@revision``.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE`` are those of huggingface_hub (extra
``hub``). No message contains the token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.errors import PluginError, RunError
from sidetune_core.io.printable import one_line
from sidetune_core.serving.adapter_folder import FILES, README, AdapterFiles, read_files
from sidetune_core.serving.base_weights import BASE_FILE

PREFIX = "hf://"


@attrs.frozen
class HubAddress:
    """A model repository, at a branch, tag or commit."""

    repository: str
    """``owner/name``"""
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}{'' if self.revision == 'main' else f'@{self.revision}'}"


@attrs.frozen
class Download:
    """An adapter in the cache."""

    folder: Path
    links_within: Path
    """The repository's folder in the cache, which the links in `folder` lead to."""


@attrs.frozen
class Upload:
    """What is uploaded, or would be."""

    address: HubAddress
    url: str
    files: dict[str, int]
    """Sizes in bytes by name."""
    notes: tuple[str, ...]


def is_address(text: object) -> bool:
    """Whether a text is an address on the hub, not a path."""
    return isinstance(text, str) and text.startswith(PREFIX)


def parse_address(text: str) -> HubAddress:
    """The parts of ``hf://owner/name@revision``; the prefix may be absent.

    Raises:
        RunError: it is no such address.
    """
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise RunError(
            f"'{text}' is no adapter on the hub: write hf://owner/name or hf://owner/name@revision"
        )
    return HubAddress(repository, revision or "main")


def download(address: HubAddress) -> Download:
    """The adapter in the local cache, downloaded if it is not there. Without network, one that is cached is
    used.

    Raises:
        PluginError: huggingface_hub is not installed.
        RunError: there is no such repository or revision, or no network and nothing in the cache.
    """
    hub = _library()
    with _quiet(), _reported(address, "download"):
        folder = Path(
            hub.snapshot_download(
                address.repository,
                revision=address.revision,
                allow_patterns=list(FILES),
                cache_dir=os.environ.get("HF_HUB_CACHE"),
                endpoint=_endpoint(),
            )
        )
    return Download(folder, folder.parent.parent)


def push(folder: Path, address: HubAddress, private: bool = False, dry_run: bool = False) -> Upload:
    """Upload an adapter to a model repository, which is created if there is none.

    Args:
        folder: of the adapter; nothing but its own files is uploaded.
        address: the repository, and the branch.
        private: create the repository as a private one.
        dry_run: check everything, and upload nothing.

    Raises:
        PluginError: huggingface_hub is not installed.
        RunError: the adapter is damaged or has no card, or the hub refuses the upload.
    """
    files = read_files(folder)
    if not (folder / README).is_file():
        raise RunError(f"{folder} has no {README}, the model card: export the adapter again")
    sizes = {name: (folder / name).stat().st_size for name in FILES if (folder / name).is_file()}
    upload = Upload(address, _url(address), sizes, tuple(_notes(folder, files)))
    if dry_run:
        return upload
    hub = _library()
    api = hub.HfApi(endpoint=_endpoint())
    with _quiet(), _reported(address, "upload"):
        api.create_repo(address.repository, private=private or None, exist_ok=True)
        if private and not api.model_info(address.repository).private:
            raise RunError(
                f"{address.repository} exists and is public, so nothing was uploaded: leave out --private, "
                "or choose another name"
            )
        if address.revision != "main":
            api.create_branch(address.repository, branch=address.revision, exist_ok=True)
        api.upload_folder(
            repo_id=address.repository,
            folder_path=folder,
            revision=address.revision,
            allow_patterns=list(sizes),
            delete_patterns=[name for name in FILES if name not in sizes],
            commit_message=f"Upload the adapter of task {one_line(files.task)} with sidetune",
        )
    return upload


def _notes(folder: Path, files: AdapterFiles) -> Iterator[str]:
    if others := sorted(path.name for path in folder.iterdir() if path.name not in FILES):
        yield f"not uploaded, since they are no files of an adapter: {', '.join(others)}"
    base = files.base
    if base is not None and base.weights != "component" and not (folder / BASE_FILE).is_file():
        yield (
            f"others cannot load it without its base, whose weights are "
            f"{'random' if base.weights == 'random' else 'from a file'}: export it --with-base"
        )
    if not files.results.get("licence"):
        yield "the card states no licence: export it with --licence"


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars of the library: they do not pass through `escaped_output`."""
    bars = _library().utils
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


@contextmanager
def _reported(address: HubAddress, verb: str) -> Iterator[None]:
    """Turn the errors of the library into sentences without the token.

    Raises:
        RunError: something fails.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise RunError(
            f"{address.repository} on {_endpoint()} has no revision '{address.revision}'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(
            f"there is no model '{address.repository}' on {_endpoint()}, or you may not see it: log in with "
            "hf auth login, or set HF_TOKEN"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise RunError(
            f"cannot {verb} {address}: no connection to {_endpoint()}, and it is not in the cache. Pass the "
            "path of a copy of its folder instead"
        ) from error
    except (errors.HFValidationError, OSError, ValueError) as error:
        raise RunError(f"cannot {verb} {address}: {_without_token(error)}") from error


def _without_token(error: Exception) -> str:
    from huggingface_hub import get_token

    token = get_token()
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return one_line(text.replace(token, "…") if token else text)


def _library() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise PluginError(
            "adapters on the hub need 'huggingface_hub': pip install 'sidetune[hub]'"
        ) from error
    return huggingface_hub


def _endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)).rstrip("/")


def _url(address: HubAddress) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{address.repository}"
