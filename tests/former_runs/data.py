"""Write the small data sets of the former runs into ``data/`` of the current folder, from fixed seeds."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path("data")
WORDS = """
the a of in was built by who when where what tower bridge church king queen river city old north south
stone wood year
1066 1215 1492 1789 alfred matilda harold edith is ' s , . ? ##s ##ed ##er long wide
"""


def main() -> None:
    """Write everything."""
    archive(ROOT / "icifar" / "cifar100.npz", seed=1)
    archive(ROOT / "cifar10" / "cifar10.npz", seed=2)
    images(ROOT / "images")
    taskonomy(ROOT / "taskonomy")
    frames(ROOT / "rgbd")
    squad(ROOT / "squad")
    habitat(ROOT / "habitat")


def blocks(random: np.random.Generator, colour: np.ndarray, size: int, block: int) -> np.ndarray:
    """(size, size, 3) uint8: one colour with noise in squares of `block` pixels, which compresses well."""
    noise = random.integers(-60, 61, (size // block, size // block, 3))
    return np.kron((colour + noise).clip(0, 255), np.ones((block, block, 1), dtype=np.int64)).astype(np.uint8)


def archive(path: Path, seed: int) -> None:
    """Four classes of 32 x 32 images, 8 to train on and 2 to test on of each."""
    random = np.random.default_rng(seed)
    colours = random.integers(60, 196, (4, 3))
    arrays: dict[str, Any] = {}
    for split, each in (("train", 8), ("test", 2)):
        labels = np.tile(np.arange(4), each)
        arrays[f"x_{split}"] = np.stack([blocks(random, colours[label], 32, 8) for label in labels])
        arrays[f"y_{split}"] = labels
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, names=np.array(["apple", "bear", "clock", "dolphin"]), **arrays)


def images(folder: Path) -> None:
    """Four classes of 8 x 8 images, 10 of each, without a test split."""
    random = np.random.default_rng(3)
    for name, colour in zip(("blue", "green", "red", "white"), random.integers(60, 196, (4, 3)), strict=True):
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            Image.fromarray(blocks(random, colour, 8, 4)).save(folder / "train" / name / f"{number}.png")


def taskonomy(folder: Path) -> None:
    """Three buildings with four views each in the layout DOMAIN/BUILDING; one image is damaged."""
    for place, domain in enumerate(("rgb", "normal", "reshading", "depth_zbuffer")):
        random = np.random.default_rng([4, place])
        for building in ("hanson", "merom", "klickitat"):
            (folder / domain / building).mkdir(parents=True, exist_ok=True)
            for point in range(2):
                for view in range(2):
                    if domain == "depth_zbuffer":
                        ramp = np.linspace(0, 8000, 32, dtype=np.uint16)[:, None]
                        image = np.repeat(ramp + np.uint16(random.integers(500, 4000)), 32, 1)
                        image[:4, :4] = 65535
                    else:
                        image = blocks(random, random.integers(60, 196, 3), 32, 8)
                    Image.fromarray(image).save(folder / domain / building / f"point_{point}_view_{view}.png")
    damaged = folder / "normal" / "merom" / "point_1_view_1.png"
    damaged.write_bytes(damaged.read_bytes()[:40])


def frames(folder: Path) -> None:
    """Ten frames of a depth camera: a wall, 2 m away on its left and 4 m on its right."""
    random = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        depth = np.full((32, 32), 2000, dtype=np.uint16)
        depth[:, 16 + number - 5 :] = 4000
        depth[0, 0] = 0
        Image.fromarray(blocks(random, random.integers(60, 196, 3), 32, 8)).save(
            folder / f"{number:03}-rgb.png"
        )
        Image.fromarray(depth).save(folder / f"{number:03}-depth.png")
    np.savez(folder / "cameras.npz", K=np.array([[32, 0, 16], [0, 32, 16], [0, 0, 1.0]]))


def squad(folder: Path) -> None:
    """Four articles of five paragraphs with two questions each, and a BERT without weights."""
    from transformers import BertConfig, BertTokenizer

    data = [{"title": f"Article_{k}", "paragraphs": [paragraph(k, p) for p in range(5)]} for k in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    bert = folder / "tiny-bert"
    bert.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (bert / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    BertConfig(vocab_size=len(vocabulary), architectures=["BertModel"], **sizes).save_pretrained(bert)


def paragraph(article: int, number: int) -> dict[str, object]:
    """A paragraph with a question that it answers and one that it does not."""
    who = ("Alfred", "Matilda", "Harold", "Edith")[(article + number) % 4]
    year = ("1066", "1215", "1492", "1789")[number % 4]
    what = ("tower", "bridge", "church")[number % 3]
    context = (
        f"The old {what} in the city was built by {who} in {year}. The river is long."
        + " Old stone." * number
    )
    answers = [{"text": text, "answer_start": context.index(text)} for text in (who, f"by {who}")]
    return {
        "context": context,
        "qas": [
            {
                "id": f"{article}-{number}-0",
                "question": f"Who built the old {what}?",
                "answers": answers,
                "is_impossible": False,
            },
            {
                "id": f"{article}-{number}-1",
                "question": "Where was the king?",
                "answers": [],
                "is_impossible": True,
            },
        ],
    }


def habitat(folder: Path) -> None:
    """A corridor, and episodes in it whose goal is ahead or behind, in the format of PointNav-v1."""
    ahead = [((x, 1.5), (x + 2.0, 1.5)) for x in (1.5, 2.0, 2.5, 3.0, 3.5)]
    behind = [((x + 2.0, 1.5), (x, 1.5)) for x in (1.5, 2.0, 2.5)]
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    (folder / "scenes" / "plan.txt").write_text("##########\n#........#\n##########\n")
    for split in ("train", "val"):
        episodes = [episode(number, *ends) for number, ends in enumerate([*ahead, *behind])]
        (folder / split).mkdir(exist_ok=True)
        content = json.dumps({"episodes": episodes}).encode()
        (folder / split / f"{split}.json.gz").write_bytes(gzip.compress(content, mtime=0))


def episode(number: int, start: tuple[float, float], goal: tuple[float, float]) -> dict[str, object]:
    """An episode that begins facing east."""
    half = math.radians(-90) / 2
    return {
        "episode_id": str(number),
        "scene_id": "plan.txt",
        "start_position": [start[0], 0.0, start[1]],
        "start_rotation": [0.0, math.sin(half), 0.0, math.cos(half)],
        "goals": [{"position": [goal[0], 0.0, goal[1]]}],
    }


if __name__ == "__main__":
    main()
