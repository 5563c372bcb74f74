"""Data sets of the ``datasets`` library: images and texts from local folders, in the library's formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sidetune_plugins.envs.hf.images import HFImages
from sidetune_plugins.envs.hf.text import HFText
from sidetune_plugins.envs.squad.tokenizer import load_tokenizer

import sidetune_core
from sidetune_core import api

COLOURS = ("red", "green", "blue")
SPORT, SCIENCE = "the team won the match {}", "the atoms of element {} decay"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library's cache is in a temporary folder, and it has no internet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def pictures(count: int, size: tuple[int, int] = (10, 8)) -> tuple[list[Image.Image], list[int]]:
    """Pictures (height, width) of one colour each, which go around in a circle, with their labels."""
    labels = [number % 3 for number in range(count)]
    images = []
    for number, label in enumerate(labels):
        array = np.zeros((*size, 3), np.uint8)
        array[..., label] = 250 - number
        images.append(Image.fromarray(array))
    return images, labels


def image_set(count: int) -> datasets.Dataset:
    images, labels = pictures(count)
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=list(COLOURS)),
            "coarse_label": datasets.ClassLabel(num_classes=2),
        }
    )
    columns = {"img": images, "fine_label": labels, "coarse_label": [0] * count}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "colours"
    datasets.DatasetDict({"train": image_set(12), "test": image_set(6)}).save_to_disk(str(folder))
    return folder


def opened(kind: type[api.TaskStream], *names: Path, seed: int = 0, **options: Any) -> Any:
    stream = kind(kind.Config(dataset=tuple(map(str, names)), **options), seed)  # type: ignore[call-arg]
    stream.lines = []  # type: ignore[attr-defined]
    stream.info = stream.lines.append  # type: ignore[attr-defined]
    return stream


def write_texts(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def news(count: int) -> list[dict[str, object]]:
    kinds = ((SPORT, "sport"), (SCIENCE, "science"))
    return [
        {"text": text.format(number), "label": label} for number in range(count // 2) for text, label in kinds
    ]


# Images


def test_a_saved_data_set_is_read_with_its_splits_and_classes(saved: Path) -> None:
    stream = opened(HFImages, saved, columns=("label=fine_label",), image_size=8)
    (task,) = stream.tasks()
    assert task.outputs.names == COLOURS
    assert stream.lines == ["18 images of 3 classes in 1 task (train 12, test 6)"]
    batch = next(iter(task.batches("test")))
    assert batch.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.inputs["image"].shape == (6, 3, 8, 8)
    assert batch.inputs["image"].amax((2, 3)).argmax(1).tolist() == batch.targets.tolist()


def test_several_columns_of_labels_are_listed(saved: Path) -> None:
    with pytest.raises(api.OptionError) as caught:
        opened(HFImages, saved).tasks()
    assert str(caught.value) == (
        "colours has several columns that may have the label: pass --env.columns label=COLUMN. Its columns: "
        "img (Image), fine_label (ClassLabel), coarse_label (ClassLabel)"
    )
    with pytest.raises(api.OptionError, match=r"no column 'fine' \(--env.columns label="):
        opened(HFImages, saved, columns=("label=fine",)).tasks()
    with pytest.raises(api.OptionError, match="--env.columns lable=fine: expected some of image=COLUMN"):
        opened(HFImages, saved, columns=("lable=fine",))


def test_a_folder_of_images_has_classes_by_folder_and_a_held_out_split(tmp_path: Path) -> None:
    images, labels = pictures(15)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "photos" / COLOURS[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    stream = opened(HFImages, tmp_path / "photos")
    (task,) = stream.tasks()
    assert task.outputs.names == tuple(sorted(COLOURS))
    assert [task.size(split) for split in ("train", "test")] == [12, 3]


def test_tasks_of_a_parquet_file_are_divided_by_class(tmp_path: Path) -> None:
    image_set(12).to_parquet(str(tmp_path / "colours.parquet"))
    tasks = opened(
        HFImages, tmp_path / "colours.parquet", columns=("label=fine_label",), tasks="blue|green,red"
    ).tasks()
    assert [task.outputs.names for task in tasks] == [("blue",), ("green", "red")]


def test_damaged_images_are_counted_or_left_out(tmp_path: Path) -> None:
    images = [{"bytes": b"no image", "path": None}, *pictures(11)[0]]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
    )
    columns = {"image": images, "label": [number % 3 for number in range(12)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "damaged"))
    with pytest.raises(api.DataError, match="1 of 12 files cannot be read: damaged/train/0 .*--env.on-error"):
        opened(HFImages, tmp_path / "damaged").tasks()
    (task,) = opened(HFImages, tmp_path / "damaged", on_error="skip").tasks()
    assert task.size("train") + task.size("test") == 11


# Texts


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_texts_of_a_file_become_tokens_of_the_tokenizer(tmp_path: Path, suffix: str) -> None:
    rows = news(10)
    data, path = datasets.Dataset.from_list(rows), str(tmp_path / f"news.{suffix}")
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[suffix](path)
    stream = opened(HFText, Path(path))
    (task,) = stream.tasks()
    assert task.outputs.names == ("science", "sport")
    assert stream.lines == [
        "news: 20 % of each class held out for testing",
        "10 texts of 2 classes in 1 task (train 8, test 2)",
    ]
    tokenizer = load_tokenizer("minilm")
    for split in ("train", "test"):
        for batch in task.batches(split):
            inputs = batch.inputs
            for row, length in enumerate(inputs.lengths.tolist()):
                text = tokenizer.decode(inputs["tokens"][row, :length], skip_special_tokens=True)
                expected = SPORT if batch.targets[row] == 1 else SCIENCE
                assert text.startswith(expected[:12])
                assert inputs["mask"][row].tolist() == [1] * length + [0] * (16 - length)


def test_pairs_of_texts_have_two_types(tmp_path: Path) -> None:
    rows = [{"premise": "it rains", "hypothesis": f"it is wet {k}", "label": k % 2} for k in range(8)]
    path = write_texts(tmp_path / "pairs.jsonl", rows)
    stream = opened(HFText, path, columns=("text=premise", "pair=hypothesis"))
    (task,) = stream.tasks()
    inputs = next(iter(task.batches("train"))).inputs
    expected = load_tokenizer("minilm")("it rains", "it is wet 0")["token_type_ids"]
    assert sum(expected) > 0
    assert inputs["types"][0, : len(expected)].tolist() == expected
    handler = HFText.handler(card_of(task))
    assert torch.equal(
        handler.preprocess([("it rains", "it is wet 0")]).inputs["types"][0], inputs["types"][0]
    )


def test_examples_without_a_label_are_left_out(tmp_path: Path) -> None:
    """Published test splits may have label -1 throughout."""
    folder = tmp_path / "glue"
    write_texts(folder / "train.jsonl", [{"sentence": f"text {k}", "label": k % 2} for k in range(20)])
    write_texts(folder / "test.jsonl", [{"sentence": f"secret {k}", "label": -1} for k in range(4)])
    stream = opened(HFText, folder)
    (task,) = stream.tasks()
    assert stream.lines[0] == "glue: left out: 4 examples of split 'test' without a label"
    assert [task.size(split) for split in ("train", "test")] == [16, 4]


def test_several_data_sets_are_tasks_with_ids_of_their_own(tmp_path: Path) -> None:
    paths = [write_texts(tmp_path / f"{name}.jsonl", news(20)) for name in ("first", "second")]
    tasks = opened(HFText, *paths, val_fraction=0.25).tasks()
    assert [task.id for task in tasks] == ["first", "second"]
    assert [tasks[0].size(split) for split in ("train", "val", "test")] == [12, 4, 4]
    ids = [
        task.sources[split].ids(torch.arange(task.size(split)))
        for task in tasks
        for split in ("train", "val", "test")
    ]
    assert torch.cat(ids).unique().tolist() == list(range(40))


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [*news(10), {"text": "word " * 50, "label": "sport"}]
    stream = opened(HFText, write_texts(tmp_path / "long.jsonl", rows), max_length=16)
    (task,) = stream.tasks()
    assert "1 cut to 16 tokens" in stream.lines[-1]
    lengths = torch.cat([batch.inputs.lengths for batch in task.batches("train")])
    assert int(lengths.max()) <= 16


def test_fingerprints_depend_on_texts_and_labels(tmp_path: Path) -> None:
    rows = news(20)
    changed_text = [{**rows[0], "text": "another text"}, *rows[1:]]
    changed_label = [{**rows[0], "label": "science"}, {**rows[1], "label": "sport"}, *rows[2:]]
    streams = []
    for name, given in {"a": rows, "b": changed_text, "c": changed_label}.items():
        streams.append(opened(HFText, write_texts(tmp_path / name / "news.jsonl", given)))
        streams[-1].tasks()
    assert len({stream.data_fingerprint() for stream in streams}) == 3
    assert len({stream.content_fingerprint() for stream in streams}) == 3
    again = opened(HFText, tmp_path / "a" / "news.jsonl", seed=1, val_fraction=0.2)
    again.tasks()
    assert again.content_fingerprint() == streams[0].content_fingerprint()


def card_of(task: api.Task) -> api.TaskCard:
    assert isinstance(task, api.HasCard)
    return api.TaskCard("t0", "", "hf-text", task.inputs, task.outputs, "accuracy", values=task.card())


# Errors


def test_what_cannot_be_opened_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    cases = {
        "/no/such/folder": "no folder or file /no/such/folder .--env.dataset.; expected a name",
        "nobody/nothing": "nobody/nothing .--env.dataset. cannot be opened: .*Without internet access, pass",
        str(write_texts(tmp_path / "x.txt2", [])): "is no .parquet, .csv",
    }
    for name, match in cases.items():
        with pytest.raises(api.DataError, match=match) as caught:
            opened(HFText, Path(name)).tasks()
        assert "\n" not in str(caught.value)
    with pytest.raises(api.OptionError, match="pass --env.dataset fancyzhx/ag_news"):
        opened(HFText)


# Runs


def test_a_run_on_texts_is_trained_resumed_and_predicts(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "news.jsonl", news(32))
    spec = sidetune_core.RunSpec(
        env=sidetune_core.Choice("hf-text", {"dataset": [str(path)], "max_length": 16}),
        learner=sidetune_core.Choice("features"),
        train={"steps": 30, "batch_size": 8, "lr": 1e-2},
    )
    run = sidetune_core.run(spec, out=tmp_path / "run")
    assert run.results.rows[0][0] == 1.0
    assert sidetune_core.resume(tmp_path / "run").results == run.results
    model = sidetune_core.load(tmp_path / "run")
    predicted = model.predict([SPORT.format(100), SCIENCE.format(100)], task="t0")
    assert [prediction.label for prediction in predicted] == ["sport", "science"]
