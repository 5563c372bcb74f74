"""Pictures of tasks in the folder of a run, as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sidetune_core.storage.atomic import write_bytes, writing
from sidetune_core.storage.run_folder import PICTURES, RunFolder


def save_image(folder: RunFolder, task_id: str, name: str, picture: Tensor) -> None:
    """Write a picture (3, H, W) in [0, 1] of a task, in place of an older one.

    Raises:
        WriteError: the disk is full, or nothing may be written there.
    """
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    path = folder.path / PICTURES / f"{task_id}.{name}.png"
    with writing(path):
        write_bytes(path, file.getvalue())


def saved_images(folder: RunFolder) -> Iterator[tuple[str, str, Tensor]]:
    """Task, name and pixels of the pictures that are there; what cannot be read is left out, for it is drawn again."""
    for path in sorted((folder.path / PICTURES).glob("*.*.png")):
        task_id, name, _ = path.name.rsplit(".", 2)
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            continue
        yield task_id, name, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
