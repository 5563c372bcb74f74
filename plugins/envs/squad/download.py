"""Download of the published SQuAD files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from sidetune_core.api import DataError, cache_path

URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
MD5 = {
    "train-v1.1.json": "981b29407e0affa3b1b156f72073b945",
    "dev-v1.1.json": "3e85deb501d4e538b6bc56f786231552",
    "train-v2.0.json": "62108c273c268d70893182d5cf8df740",
    "dev-v2.0.json": "246adae8b7002f8679c027697b0b7cf8",
}


def fetch_squad(file: str, folder: Path) -> Path:
    """The local copy of a published file, downloaded if absent and verified by its MD5.

    Raises:
        DataError: the download fails, or the file differs from the published one.
    """
    path = cache_path(folder) / file
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL + file, str(path))
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"cannot download {URL + file} ({error}). Download it on another "
                "machine and pass it with --env.train-file or --env.dev-file"
            ) from error
    if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != MD5[file]:
        raise DataError(f"{path} differs from the published file (MD5 mismatch); delete it and run again")
    return path
