"""Videos of episodes, written frame by frame: memory does not grow with their length."""

from __future__ import annotations

import struct
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import GifImagePlugin
from PIL import Image as PILImage

from sidetune_core.errors import OptionError, RunError
from sidetune_core.rl.vector_env import Image
from sidetune_core.storage.atomic import writing

SUFFIXES = (".gif", ".mp4")

ENCODER = "imageio_ffmpeg"
"""The module that encodes mp4."""

HEADER = struct.Struct("<QIII")
"""Of a stored frame: bytes that follow, and its shape."""


def check_video(path: Path) -> None:
    """Check that a video can be written to a file or into a folder, before anything is played.

    Raises:
        OptionError: the file has another suffix, a folder of its path is a file, or a library is missing.
    """
    if _is_folder(path):
        _check_folder(path, path)
        return
    if path.suffix not in SUFFIXES:
        raise OptionError(f"--video {path}: a video is a .gif or .mp4 file, or goes into a folder")
    _check_folder(path, path.parent)
    if path.suffix == ".mp4" and find_spec(ENCODER) is None:
        raise OptionError(
            f"--video {path}: mp4 needs imageio-ffmpeg: pip install 'sidetune[video]'. Or write a .gif"
        )


def video_file(path: Path, task_id: str) -> Path:
    """The file of a video: `path` itself; in a folder one with the name of the task, mp4 if possible. Its
    folder is made."""
    if not _is_folder(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
    path.mkdir(parents=True, exist_ok=True)
    return path / f"{task_id}{'.gif' if find_spec(ENCODER) is None else '.mp4'}"


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder, or has no suffix and may become one."""
    return path.is_dir() or (not path.suffix and not path.exists())


def _check_folder(path: Path, folder: Path) -> None:
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if not existing.is_dir():
        raise OptionError(f"--video {path}: {existing} is a file, not a folder")


class Video:
    """A video of environments that are stepped together: first all frames of environment 0, then those of
    environment 1, and so on. Frames of the later ones wait in temporary files.

    Args:
        path: a ``.gif`` or ``.mp4`` file, which is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._encoder: Encoder = GIF(path) if path.suffix == ".gif" else MP4(path)
        self._stored: dict[int, IO[bytes]] = {}

    def show(self, env: int, frames: Sequence[Image], frames_per_second: float) -> None:
        """Add frames (H, W, 3) of an environment (see `ShowFrames`).

        Raises:
            RunError: a frame has another size than the first one.
            WriteError: the file is not writable.
        """
        self._encoder.frames_per_second = frames_per_second
        for frame in frames:
            if env == 0:
                self._write(frame)
            else:
                _store(self._stored.setdefault(env, tempfile.TemporaryFile()), frame)  # noqa: SIM115

    def close(self) -> None:
        """Write the frames that are stored, and end the file."""
        for env in sorted(self._stored):
            with self._stored[env] as file:
                for frame in _stored(file):
                    self._write(frame)
        with writing(self.path):
            self._encoder.close()

    def _write(self, frame: Image) -> None:
        with writing(self.path):
            self._encoder.write(frame)


class Encoder(ABC):
    """Writes the frames of a video in order."""

    frames_per_second: float = 30.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shape: tuple[int, ...] | None = None

    def write(self, frame: Image) -> None:
        """Add a frame (H, W, 3).

        Raises:
            RunError: it has another size than the first one.
        """
        if self._shape is None:
            self._shape = frame.shape
            self.start(frame)
        if frame.shape != self._shape:
            raise RunError(f"frames of a video have one size; one has {frame.shape} after {self._shape}")
        self.add(frame)

    @abstractmethod
    def start(self, frame: Image) -> None:
        """Begin the file, for frames of this size."""

    @abstractmethod
    def add(self, frame: Image) -> None:
        """Write a frame."""

    @abstractmethod
    def close(self) -> None:
        """End the file."""


class GIF(Encoder):
    """Each frame has its own palette of 256 colours."""

    _file: IO[bytes] | None = None

    def start(self, frame: Image) -> None:
        self._file = self.path.open("wb")
        header, _ = GifImagePlugin.getheader(_palette(frame), info={"loop": 0})
        self._file.writelines(header)

    def add(self, frame: Image) -> None:
        assert self._file is not None
        milliseconds = max(20, round(1000 / self.frames_per_second))  # viewers show less as 100
        data = GifImagePlugin.getdata(_palette(frame), duration=milliseconds, include_color_table=True)
        self._file.writelines(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.write(b";")
            self._file.close()


class MP4(Encoder):
    """H.264, by ffmpeg."""

    _process: Any = None

    def start(self, frame: Image) -> None:
        import imageio_ffmpeg

        height, width, _ = frame.shape
        self._process = imageio_ffmpeg.write_frames(
            str(self.path), (width, height), fps=self.frames_per_second, macro_block_size=2
        )
        self._process.send(None)

    def add(self, frame: Image) -> None:
        self._process.send(frame.tobytes())

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


def _palette(frame: Image) -> PILImage.Image:
    return PILImage.fromarray(frame).quantize(256, PILImage.Quantize.FASTOCTREE)


def _store(file: IO[bytes], frame: Image) -> None:
    data = zlib.compress(frame.tobytes(), 1)
    file.write(HEADER.pack(len(data), *frame.shape))
    file.write(data)


def _stored(file: IO[bytes]) -> Iterator[Image]:
    file.seek(0)
    while header := file.read(HEADER.size):
        size, *shape = HEADER.unpack(header)
        yield np.frombuffer(zlib.decompress(file.read(size)), np.uint8).reshape(shape)
