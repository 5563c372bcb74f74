"""`sidetune push`: an adapter to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import one_line


def push(
    folder: Positional[Path],
    repository: Positional[str],
    private: Switch = False,
    revision: str = "main",
    dry_run: Switch = False,
) -> int:
    """Upload an adapter to a model repository of the Hugging Face Hub, which is created if there is none.

    sidetune push acme me/acme-adapter

    Others load it with sidetune_core.load("hf://me/acme-adapter"). It needs huggingface_hub: pip install
    'sidetune[hub]'. Log in with hf auth login, or set HF_TOKEN; HF_ENDPOINT chooses another server.

    Args:
        folder: of the adapter, as sidetune export --task wrote it.
        repository: owner/name on the hub.
        private: create the repository as a private one.
        revision: branch to upload to; it is created if there is none.
        dry_run: check the adapter, print what would be uploaded, and upload nothing.
    """
    from sidetune_core.serving.hub import parse_address
    from sidetune_core.serving.hub import push as push_adapter

    address = parse_address(repository)
    if "@" in repository:
        raise OptionError(f"pass --revision {address.revision} instead of '@' in '{repository}'")
    if not revision:
        raise OptionError("--revision needs the name of a branch")
    upload = push_adapter(folder, type(address)(address.repository, revision), private, dry_run)
    for name, size in upload.files.items():
        print(f"  {name:<22}{size:>15,} bytes")
    for note in upload.notes:
        print(f"  note: {one_line(note)}")
    print(f"{'would upload' if dry_run else 'uploaded'} {one_line(folder)} to {one_line(upload.url)}")
    print(f'load it with    sidetune_core.load("{one_line(upload.address)}")')
    return 0
