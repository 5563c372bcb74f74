"""How `Task.from_dataset` makes a task: check the datasets, read their targets, number the classes."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sidetune_core.errors import DataError, OptionError, shorten
from sidetune_core.supervised.dataset import DatasetSource, find_randomness
from sidetune_core.supervised.dataset_classes import Labels, class_names, make_class_coder
from sidetune_core.supervised.dataset_examples import ExampleReader, shown
from sidetune_core.supervised.dataset_fetcher import Fetcher
from sidetune_core.supervised.dataset_reading import (
    Given,
    Sample,
    as_given,
    encode_all,
    raw_targets,
    read_sample,
)
from sidetune_core.supervised.dataset_targets import (
    ClassCoder,
    Coder,
    LabelCoder,
    ValueCoder,
    plain_label,
)
from sidetune_core.supervised.dataset_task import ANY, STREAM_IDS, UNIT, DatasetTask
from sidetune_core.supervised.example_seeds import kept
from sidetune_core.supervised.iterable_dataset import IterableSource, StreamReader
from sidetune_core.supervised.sampling import ClassWeights, Sampling
from sidetune_core.supervised.sources import Source


def from_dataset(
    train: Any,
    test: Any,
    val: Any = None,
    *,
    id: str | None = None,
    title: str | None = None,
    classes: Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
    values: Sequence[str] | int | None = None,
    input: str = "image",
    transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    image_size: int | None = None,
    workers: int = 0,
    class_weights: ClassWeights = "none",
    sampling: Sampling = "uniform",
    data: str = "",
) -> DatasetTask:
    """See `Task.from_dataset`."""
    _check_options(classes, labels, values, class_weights, sampling, workers)
    _check_conversion(id, image_size, transform, target_transform)
    given = [
        as_given(split, dataset)
        for split, dataset in (("train", train), ("val", val), ("test", test))
        if dataset is not None or split != "val"
    ]
    if workers and (iterable := [one for one in given if one.iterable]):
        raise OptionError(f"{iterable[0].where} is iterable, and is read without workers: leave out workers=")
    reader = ExampleReader(input, transform, target_transform, image_size)
    samples = {one.split: read_sample(one, reader) for one in given}
    shapes = samples["train"].shapes
    _check_resized(given[0], shapes, image_size)
    for one in given:
        if samples[one.split].shapes != shapes:
            raise DataError(
                f"{one.where}: its inputs have shapes {shown(samples[one.split].shapes)}, and those of the "
                f"training examples {shown(shapes)}"
            )
    raw = {
        one.split: raw_targets(one, reader, samples[one.split], workers) for one in given if not one.iterable
    }
    coder = _make_coder(given, samples, raw, classes, labels, values)
    targets = {
        one.split: torch.tensor(encode_all(one, raw[one.split], coder.plain))
        for one in given
        if one.split in raw
    }
    objective = coder.objective(targets.get("train"), class_weights)
    if sampling == "balanced" and "train" not in targets:
        raise OptionError(
            f"{given[0].where} is iterable, so its classes cannot be sampled: leave out sampling="
        )
    sources = _make_sources(given, reader, coder, samples, targets, workers)
    return DatasetTask(
        id or "",
        title or _title(coder, train),
        sources,
        objective,
        sampling=sampling,
        data=data,
        values=_card_values(shapes, samples["train"], image_size),
        notes=_notes(given, reader, samples["train"]),
    )


def _check_options(classes: Any, labels: Any, values: Any, weights: str, sampling: str, workers: int) -> None:
    kinds = {"classes": classes, "labels": labels, "values": values}
    if len(chosen := [name for name, value in kinds.items() if value is not None]) > 1:
        raise OptionError(
            f"Task.from_dataset: {' and '.join(chosen)} are given; a task has classes=, or labels= of which "
            "several apply, or values= to regress"
        )
    for name, value in (("classes", classes), ("labels", labels)):
        if value is not None and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise OptionError(f"Task.from_dataset: {name}= is a list of names, not {value!r}")
    if labels is not None and not (labels and all(isinstance(name, str) for name in labels)):
        raise OptionError(f"Task.from_dataset: labels= is a list of names, not {labels!r}")
    is_listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    is_count = isinstance(values, int) and not isinstance(values, bool) and values > 0
    if values is not None and not (is_count or (is_listed and all(isinstance(one, str) for one in values))):
        raise OptionError(f"Task.from_dataset: values= is a number of values or their names, not {values!r}")
    for name, names in (("labels", labels), ("values", values if is_listed else None)):
        if repeated := [one for one, count in Counter(names or ()).items() if count > 1]:
            raise OptionError(f"Task.from_dataset: {name}= names {shorten(repeated)} more than once")
    for name, value, allowed in (
        ("class_weights", weights, ("none", "balanced")),
        ("sampling", sampling, ("uniform", "balanced")),
    ):
        if value not in allowed:
            raise OptionError(
                f"Task.from_dataset: {name}= is {' or '.join(map(repr, allowed))}, not {value!r}"
            )
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise OptionError(f"Task.from_dataset: workers= is a number of processes from 0 on, not {workers!r}")


def _check_conversion(id: Any, image_size: Any, transform: Any, target_transform: Any) -> None:
    if id is not None and not (isinstance(id, str) and re.fullmatch(r"[\w.-]+", id)):
        raise OptionError(f"Task.from_dataset: id= is a name of letters, digits and '-', not {id!r}")
    is_size = isinstance(image_size, int) and not isinstance(image_size, bool) and image_size > 0
    if image_size is not None and not is_size:
        raise OptionError(f"Task.from_dataset: image_size= is a number of pixels, not {image_size!r}")
    for name, value in (("transform", transform), ("target_transform", target_transform)):
        if value is not None and not callable(value):
            raise OptionError(f"Task.from_dataset: {name}= is a function, not {value!r}")


def _check_resized(given: Given, shapes: Mapping[str, tuple[int, ...]], image_size: int | None) -> None:
    """Check that an option which is for Pillow images has not been ignored."""
    if image_size is not None and (3, image_size, image_size) not in shapes.values():
        raise OptionError(
            f"{given.where}: image_size= resizes Pillow images, and it returns {shown(shapes)}: leave out "
            "image_size=, or resize with transform="
        )


def _make_coder(
    given: Sequence[Given],
    samples: Mapping[str, Sample],
    raw: Mapping[str, Sequence[Any]],
    classes: Sequence[Any] | None,
    labels: Sequence[str] | None,
    values: Sequence[str] | int | None,
) -> Coder:
    if labels is not None:
        return LabelCoder(tuple(labels))
    if values is not None:
        return ValueCoder((), values) if isinstance(values, int) else ValueCoder(tuple(values), len(values))
    if classes is None and "train" not in raw:
        raise OptionError(
            f"{given[0].where} is iterable, so its classes are not known beforehand: pass classes=[...] "
            "(or labels=[...], or values=...)"
        )
    found = {}
    for one in given:
        seen = raw.get(one.split, samples[one.split].targets)
        found[one.split] = Labels(one.where, encode_all(one, seen, plain_label))
    names = class_names(given[0].dataset)
    if "train" not in raw:  # the first labels of a stream do not tell which classes it lacks
        assert classes is not None
        known = [plain_label(label) for label in classes]
        integers = all(isinstance(label, int) for label in found["train"].found)
        is_named = integers and all(isinstance(label, str) for label in known)
        found["train"] = Labels(found["train"].where, list(range(len(known))) if is_named else known)
    return make_class_coder(found, classes, names)


def _make_sources(
    given: Sequence[Given],
    reader: ExampleReader,
    coder: Coder,
    samples: Mapping[str, Sample],
    targets: Mapping[str, Tensor],
    workers: int,
) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    streams = any(one.iterable for one in given)
    first_id, shapes = len(given) * STREAM_IDS if streams else 0, samples["train"].shapes
    for one in given:
        if one.iterable:
            stream = StreamReader(one.dataset, reader, coder, shapes)
            first = len(sources) * STREAM_IDS
            sources[one.split] = IterableSource(stream, one.size, first, one.where)
            continue
        fetcher = Fetcher(one.dataset, reader, coder, shapes)
        randomness = find_randomness(fetcher, samples[one.split].rows)
        if not randomness.exact:
            warnings.warn(
                f"{one.where}: reading an example twice under one seed of the generators of torch, NumPy and "
                "random gives different inputs, so a resumed run will not have the same bytes: draw from "
                "these generators, without one of the dataset's own",
                stacklevel=4,
            )
        encoded = targets[one.split]
        sources[one.split] = DatasetSource(fetcher, encoded, first_id, randomness, workers, one.where)
        first_id += len(encoded)
    return sources


def _title(coder: Coder, train: Any) -> str:
    names = coder.names if isinstance(coder, ClassCoder | LabelCoder | ValueCoder) else ()
    if not names:
        return type(train).__name__
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"


def _card_values(shapes: Mapping[str, Any], sample: Sample, image_size: int | None) -> dict[str, Any]:
    ranges = UNIT if sample.low >= 0 and sample.high <= 1 else ANY
    is_square = len(shapes) == 1 and next(iter(shapes.values())) == (3, image_size, image_size)
    return {"images": ranges, **({"resize": "pillow"} if is_square and ranges == UNIT else {})}


def _notes(given: Sequence[Given], reader: ExampleReader, sample: Sample) -> list[str]:
    train = given[0]
    notes: list[str] = []
    if not train.iterable:
        with kept():
            notes += reader.notes(train.dataset[sample.rows[0]])
    image = sample.shapes.get("image", ())
    if len(image) == 3 and (sample.low < 0 or sample.high > 1):
        notes.append(
            f"images have values from {sample.low:.3g} to {sample.high:.3g}; built-in bases "
            "expect [0, 1] and "
            "standardise themselves"
        )
    return notes
