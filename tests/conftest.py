"""What several tests share: real data where it is at hand, and small made-up data elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeArchive = Callable[..., Path]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: ``$SIDETUNE_TEST_DATA``, or ``../shared/data`` beside the checkout."""
    given = os.environ.get("SIDETUNE_TEST_DATA")
    folder = Path(given).expanduser() if given else Path(__file__).resolve().parents[2] / "shared" / "data"
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
    """Writes ``images.npz``: 4 classes of 32 x 32 images told apart by their colour, 20 to train on and 8 to test on of each.

    Keyword arguments replace arrays by key; None leaves one out.
    """

    def make(**changes: Any) -> Path:
        arrays = {**_coloured("train", 20), **_coloured("test", 8), "names": np.array(["blue", "green", "red", "white"]), **changes}
        path = tmp_path / "images.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return make


@pytest.fixture
def image_archive(make_image_archive: MakeArchive) -> Path:
    """A small archive that is as it should be."""
    return make_image_archive()


WORDS = """
the a of in was built by who when where what tower bridge church king queen river city old north south stone wood year
1066 1215 1492 1789 alfred matilda harold edith is ' s , . ? ##s ##ed ##er long wide
"""


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of random weights, 3 layers of 16 channels, and its tokenizer of a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


MakeSquad = Callable[..., Path]


@pytest.fixture
def make_squad(tmp_path: Path) -> MakeSquad:
    """Writes questions in SQuAD's format: so many articles of ten paragraphs, two questions each, the second without an answer.

    Args: the file's name; how many articles; whether there are questions without answers.
    """

    def make(name: str = "squad.json", articles: int = 2, impossible: bool = True) -> Path:
        path = tmp_path / name
        data = [{"title": f"Article_{k}", "paragraphs": [_paragraph(name, k, p, impossible) for p in range(10)]} for k in range(articles)]
        path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
        return path

    return make


@pytest.fixture
def squad_file(make_squad: MakeSquad) -> Path:
    """Two articles that are as they should be."""
    return make_squad()


def _paragraph(name: str, article: int, number: int, impossible: bool) -> dict[str, Any]:
    who = ("Alfred", "Matilda", "Harold", "Edith")[(article + number) % 4]
    year = ("1066", "1215", "1492", "1789")[number % 4]
    what = ("tower", "bridge", "church")[number % 3]
    context = f"The old {what} in the city was built by {who} in {year}. The river is long." + " Old stone." * number
    answers = [{"text": text, "answer_start": context.index(text)} for text in (who, f"by {who}")]
    questions: list[dict[str, Any]] = [
        {"id": f"{name}-{article}-{number}-0", "question": f"Who built the old {what}?", "answers": answers, "is_impossible": False}
    ]
    if impossible:
        questions.append({"id": f"{name}-{article}-{number}-1", "question": "Where was the king?", "answers": [], "is_impossible": True})
    return {"context": context, "qas": questions}


def _coloured(split: str, each: int) -> dict[str, Any]:
    colours = np.array([[40, 40, 200], [40, 200, 40], [200, 40, 40], [200, 200, 200]])
    labels = np.tile(np.arange(4), each)
    noise = np.random.default_rng(each).integers(-30, 31, (len(labels), 32, 32, 3))
    return {f"x_{split}": (colours[labels][:, None, None] + noise).astype(np.uint8), f"y_{split}": labels}


def _unpack(shared_data: Path, name: str, factory: pytest.TempPathFactory) -> Path:
    out = factory.mktemp(name)
    subprocess.run([sys.executable, str(shared_data / "unpack.py"), name, str(out)], check=True)
    return out / f"{name}.npz"
