"""Videos are written frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sidetune_core.errors import OptionError, RunError
from sidetune_core.serving import video
from sidetune_core.serving.video import Video, check_video, video_file


def frame(value: int, size: tuple[int, int] = (12, 16)) -> Any:
    return np.full((*size, 3), value, np.uint8)


def colours(path: Path) -> list[int]:
    """The colour of each frame of a GIF."""
    found = []
    with Image.open(path) as image:
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            found.append(int(np.asarray(image.convert("RGB"))[0, 0, 0]))
    return found


def test_a_gif_has_the_frames_of_each_environment_in_turn(tmp_path: Path) -> None:
    film = Video(tmp_path / "film.gif")
    for step in range(3):
        for env in range(3):
            film.show(env, [frame(100 * env + step)], 10)
    film.close()
    assert colours(tmp_path / "film.gif") == [0, 1, 2, 100, 101, 102, 200, 201, 202]


def test_a_gif_is_shown_in_real_time_and_without_end(tmp_path: Path) -> None:
    film = Video(tmp_path / "film.gif")
    film.show(0, [frame(1), frame(2)], 10)
    film.close()
    with Image.open(tmp_path / "film.gif") as image:
        assert (image.size, image.info["duration"], image.info["loop"]) == ((16, 12), 100, 0)


def test_a_video_without_frames_is_no_file(tmp_path: Path) -> None:
    Video(tmp_path / "film.gif").close()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_an_error(tmp_path: Path) -> None:
    film = Video(tmp_path / "film.gif")
    with pytest.raises(RunError, match="one size"):
        film.show(0, [frame(0), frame(0, (3, 3))], 10)


@pytest.mark.parametrize("size", [(12, 16), (13, 17)])
def test_an_mp4_has_all_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    film = Video(tmp_path / "film.mp4")
    film.show(0, [frame(value, size) for value in (0, 100, 200)], 10)
    film.show(1, [frame(50, size)], 10)
    film.close()
    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "film.mp4")[0] == 4


def test_an_mp4_without_its_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "ENCODER", "no_such_encoder")
    with pytest.raises(OptionError, match=r"pip install 'sidetune\[video\]'"):
        check_video(tmp_path / "film.mp4")


def test_other_suffixes_and_files_for_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a \.gif or \.mp4 file"):
        check_video(tmp_path / "film.avi")
    (tmp_path / "films").touch()
    with pytest.raises(OptionError, match="films is a file, not a folder"):
        check_video(tmp_path / "films" / "film.gif")


def test_folders_of_a_video_are_made(tmp_path: Path) -> None:
    check_video(tmp_path / "films")
    assert not [*tmp_path.iterdir()]
    assert video_file(tmp_path / "films", "t1").parent == tmp_path / "films"
    video_file(tmp_path / "new" / "film.gif", "t1")
    assert (tmp_path / "films").is_dir()
    assert (tmp_path / "new").is_dir()


def test_a_video_in_a_folder_has_the_name_of_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_video(tmp_path)
    assert video_file(tmp_path / "film.gif", "t1") == tmp_path / "film.gif"
    monkeypatch.setattr(video, "ENCODER", "no_such_encoder")
    assert video_file(tmp_path, "t1") == tmp_path / "t1.gif"
    monkeypatch.setattr(video, "ENCODER", "json")
    assert video_file(tmp_path, "t1") == tmp_path / "t1.mp4"
