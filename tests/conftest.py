"""Shared fixtures: real data where it is available, and small generated data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Set before torch is imported: two threads wait for each other, for minutes where the tests are not alone on
the machine, and several processes of tests are faster with one each. It holds for subprocesses too."""

with suppress(ImportError):  # the environment of env habitat has pytest only
    from hypothesis import HealthCheck, settings

    # How long an example takes depends on what else the machine does.
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")

MakeArchive = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> Iterator[None]:
    """Screens have no width, as in a pipe; the workers of pytest-xdist would set one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """`os.fsync` does nothing: only a power cut would lose what is not synced, and no test has one. Tests of
    what is synced put a function of their own in its place, and processes that tests start do sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


RunProcesses = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def server() -> Iterator[RunProcesses]:
    """Does one run in several processes (see core/distributed/torchrun/server.py); posix only.

    Args: number of processes; run folder; spec, or None to resume; `save_every`; and what `harm` to do, in
    which process (`rank`) and `at` which step. The answer is what each process had.
    """
    path = Path(__file__).parent / "core" / "distributed" / "torchrun" / "server.py"
    with subprocess.Popen(
        [sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(
            processes: int, folder: Path, spec: Any = None, save_every: str = "none", **harm: Any
        ) -> list[dict[str, Any]]:
            assert process.stdin is not None
            assert process.stdout is not None
            values = {
                "processes": processes,
                "folder": str(folder),
                "spec": spec,
                "save_every": save_every,
                **harm,
            }
            print(json.dumps(values), file=process.stdin, flush=True)
            answer: list[dict[str, Any]] = json.loads(process.stdout.readline())
            return answer

        yield run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: ``$SIDETUNE_TEST_DATA``, or ``../shared/data`` next to the checkout."""
    path = os.environ.get("SIDETUNE_TEST_DATA")
    folder = Path(path).expanduser() if path else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "unpack.py").is_file():
        pytest.skip(f"no real data at {folder} (set SIDETUNE_TEST_DATA to its folder)")
    return folder


@pytest.fixture(scope="session")
def cifar100_archive(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-100 as one ``.npz``."""
    return _unpack(shared_data, "cifar100", tmp_path_factory)


@pytest.fixture(scope="session")
def cifar10_archive(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-10 as one ``.npz``."""
    return _unpack(shared_data, "cifar10", tmp_path_factory)


@pytest.fixture
def make_image_archive(tmp_path: Path) -> MakeArchive:
    """Writes ``images.npz``: 4 classes of 32 x 32 images by colour, each with 20 training and 8 test images.

    Keyword arguments replace arrays by key; None removes one.
    """

    def make(**changes: Any) -> Path:
        arrays = {
            **_coloured("train", 20),
            **_coloured("test", 8),
            "names": np.array(["blue", "green", "red", "white"]),
            **changes,
        }
        path = tmp_path / "images.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return make


@pytest.fixture
def image_archive(make_image_archive: MakeArchive) -> Path:
    """A small valid archive."""
    return make_image_archive()


WORDS = """
the a of in was built by who when where what tower bridge church king queen river city old north south stone
wood year 1066 1215 1492 1789 alfred matilda harold edith is ' s , . ? ##s ##ed ##er long wide
"""


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of random weights, 3 layers of 16 channels, and a tokenizer of a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


MakeSquad = Callable[..., Path]


@pytest.fixture
def make_squad(tmp_path: Path) -> MakeSquad:
    """Writes questions in SQuAD's format: articles of ten paragraphs, two questions each, one unanswerable.

    Args: file name; number of articles; whether to include questions without answers.
    """

    def make(name: str = "squad.json", articles: int = 2, impossible: bool = True) -> Path:
        path = tmp_path / name
        data = [
            {"title": f"Article_{k}", "paragraphs": [_paragraph(name, k, p, impossible) for p in range(10)]}
            for k in range(articles)
        ]
        path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
        return path

    return make


@pytest.fixture
def squad_file(make_squad: MakeSquad) -> Path:
    """Two valid articles."""
    return make_squad()


def _paragraph(name: str, article: int, paragraph: int, impossible: bool) -> dict[str, Any]:
    who = ("Alfred", "Matilda", "Harold", "Edith")[(article + paragraph) % 4]
    year = ("1066", "1215", "1492", "1789")[paragraph % 4]
    what = ("tower", "bridge", "church")[paragraph % 3]
    context = (
        f"The old {what} in the city was built by {who} in {year}. The river is long."
        + " Old stone." * paragraph
    )
    answers = [{"text": text, "answer_start": context.index(text)} for text in (who, f"by {who}")]
    questions: list[dict[str, Any]] = [
        {
            "id": f"{name}-{article}-{paragraph}-0",
            "question": f"Who built the old {what}?",
            "answers": answers,
            "is_impossible": False,
        }
    ]
    if impossible:
        questions.append(
            {
                "id": f"{name}-{article}-{paragraph}-1",
                "question": "Where was the king?",
                "answers": [],
                "is_impossible": True,
            }
        )
    return {"context": context, "qas": questions}


def _coloured(split: str, count: int) -> dict[str, Any]:
    colours = np.array([[40, 40, 200], [40, 200, 40], [200, 40, 40], [200, 200, 200]])
    labels = np.tile(np.arange(4), count)
    noise = np.random.default_rng(count).integers(-30, 31, (len(labels), 32, 32, 3))
    return {f"x_{split}": (colours[labels][:, None, None] + noise).astype(np.uint8), f"y_{split}": labels}


def _unpack(shared_data: Path, name: str, factory: pytest.TempPathFactory) -> Path:
    out = factory.mktemp(name)
    subprocess.run([sys.executable, str(shared_data / "unpack.py"), name, str(out)], check=True)
    return out / f"{name}.npz"


WriteTaskonomy = Callable[..., Path]


def _encode(domain: str, view: int, size: int) -> Any:
    """An image of a domain in the public format: 8 or 16 bits, one channel or three."""
    random = np.random.default_rng([view, *domain.encode()])
    slope = np.linspace(0, 1, size)[:, None] * np.ones(size)
    if domain in ("rgb", "normal", "principal_curvature"):
        return random.integers(0, 256, (size, size, 3), dtype=np.uint8)
    if domain == "reshading":
        return np.repeat((255 * slope).astype(np.uint8)[..., None], 3, 2)
    if domain == "segment_semantic":
        return random.integers(0, 18, (size, size), dtype=np.uint8)
    if domain == "class_object":
        probabilities = random.random(1000)
        return probabilities / probabilities.sum()
    values = (random.integers(0, 4000) + 8000 * slope).astype(np.uint16)
    if domain == "depth_zbuffer":
        values[: size // 8, : size // 8] = 65535
    return values


DOMAINS = (
    "rgb",
    "principal_curvature",
    "segment_semantic",
    "reshading",
    "keypoints3d",
    "keypoints2d",
    "edge_texture",
    "edge_occlusion",
    "depth_zbuffer",
    "depth_euclidean",
    "normal",
    "class_object",
)


@pytest.fixture
def write_taskonomy() -> WriteTaskonomy:
    """Writes a small data set in one of the public layouts, with the real file formats.

    Layout 'buildings' is DOMAIN/BUILDING/point_I_view_J.png, 'sample'
    DOMAIN/point_I_view_J_domain_DOMAIN.png, 'flat' has all files in one folder, 'omnidata' is
    DOMAIN/taskonomy/BUILDING, 'components' BUILDING/DOMAIN, and 'archives' BUILDING_DOMAIN/DOMAIN.
    """

    def write(
        root: Path,
        buildings: Sequence[str] = ("hanson", "merom"),
        points: int = 2,
        views: int = 2,
        size: int = 32,
        layout: str = "buildings",
        domains: Sequence[str] = DOMAINS,
    ) -> Path:
        for domain in domains:
            number = 0
            for building in buildings:
                folders = {"buildings": root / domain / building, "sample": root / domain, "flat": root}
                folders["omnidata"] = root / domain / "taskonomy" / building
                folders["components"] = root / building / domain
                folders["archives"] = root / f"{building}_{domain}" / domain
                folder = folders[layout]
                folder.mkdir(parents=True, exist_ok=True)
                for point, view in product(range(points), range(views)):
                    suffix = "" if layout == "buildings" else f"_domain_{domain}"
                    path = folder / f"point_{point}_view_{view}{suffix}"
                    content = _encode(domain, number, size)
                    if domain == "class_object":
                        np.save(path.with_suffix(".npy"), content)
                    else:
                        Image.fromarray(content).save(path.with_suffix(".png"))
                    number += 1
        return root

    return write


WriteFrames = Callable[..., Path]


@pytest.fixture
def write_frames() -> WriteFrames:
    """Writes depth camera frames: random colours, and a wall 2 m away on the left and 4 m on the right."""

    def write(root: Path, count: int = 24, size: int = 32, near: int = 2000, far: int = 4000) -> Path:
        root.mkdir(parents=True)
        random = np.random.default_rng(0)
        depth = np.full((size, size), near, dtype=np.uint16)
        depth[:, size // 2 :] = far
        depth[0, 0] = 0
        for number in range(count):
            colours = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(colours).save(root / f"{number:03}-rgb.png")
            Image.fromarray(depth).save(root / f"{number:03}-depth.png")
        np.savez(root / "cameras.npz", K=np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]))
        return root

    return write
