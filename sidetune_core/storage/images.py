"""Visualisations of tasks, as PNG files in the run folder."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sidetune_core.io.image_files import open_image
from sidetune_core.storage.atomic import write_bytes, writing
from sidetune_core.storage.file_names import check_file_name
from sidetune_core.storage.run_files import IMAGES
from sidetune_core.storage.run_folder import RunFolder

MAX_PIXELS = 2**24
"""Of a saved image; a larger one is not read back."""


def save_image(folder: RunFolder, task_id: str, name: str, image: Tensor) -> Path:
    """Write an image (3, H, W) in [0, 1] of a task, in place of an earlier one; returns its path.

    Raises:
        PluginError: the name is no file name.
        WriteError: the disk is full, or the path is not writable.
    """
    from PIL import Image  # few tasks have visualisations

    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    check_file_name(name, f"visualisations() of {task_id} returned")
    path = folder.path / IMAGES / f"{task_id}.{name}.png"
    with writing(path):
        write_bytes(path, file.getvalue())
    return path


def delete_images(folder: RunFolder, task_id: str) -> list[Path]:
    """Delete the images of an earlier state of a task; returns their paths."""
    own = [path for path in (folder.path / IMAGES).glob("*.*.png") if path.name.rsplit(".", 2)[0] == task_id]
    for path in own:
        with writing(path):
            path.unlink()
    return own


def saved_images(folder: RunFolder) -> Iterator[tuple[str, str, Tensor]]:
    """Task id, name and pixels (3, H, W) of every saved image. Unreadable files are skipped; they are drawn
    again.
    """
    paths = sorted((folder.path / IMAGES).glob("*.*.png"))
    if not paths:
        return
    from PIL import Image

    for path in paths:
        if not path.is_file():  # reading a pipe would wait for its writer
            continue
        task_id, name, _ = path.name.rsplit(".", 2)
        try:
            with open_image(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    continue
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        yield task_id, name, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
