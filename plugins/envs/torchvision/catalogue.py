"""The data sets of torchvision for the classification of images: their splits, labels and files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

Arguments = Mapping[str, object]
"""Keyword arguments of a data set's class."""

DIGITS = tuple(str(digit) for digit in range(10))
"""Names of the classes of digits, equal in all data sets of digits, as a shared head needs them."""


@attrs.frozen
class Published:
    """A data set of torchvision."""

    cls: str
    """Name of its class in ``torchvision.datasets``."""
    splits: Mapping[str, Arguments]
    """By our name of the split; without ``test`` where none is published."""
    labels: str
    """Attribute with the label of each image, or with pairs of a file and a label."""
    files: str
    """Where its files are below the root, for a computer without internet access."""
    classes: tuple[str, ...] | str = "classes"
    """Names of the classes, or the attribute that has them; empty to number them."""


def _flag() -> Mapping[str, Arguments]:
    return {"train": {"train": True}, "test": {"train": False}}


def _named(
    train: str = "train", test: str | None = "test", val: str | None = None
) -> Mapping[str, Arguments]:
    names = {"train": train, "val": val, "test": test}
    return {split: {"split": name} for split, name in names.items() if name is not None}


def _idx(cls: str, classes: tuple[str, ...] | str = "classes") -> Published:
    files = f"{cls}/raw: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    return Published(cls, _flag(), "targets", f"{files}t10k-labels-idx1-ubyte", classes)


def _emnist(split: str) -> Published:
    splits = {name: {"split": split, **flag} for name, flag in _flag().items()}
    kinds = ", ".join(
        f"emnist-{split}-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    )
    return Published("EMNIST", splits, "targets", f"EMNIST/raw: {kinds}")


CATALOGUE: Mapping[str, Published] = MappingProxyType(
    {
        "Caltech101": Published(
            "Caltech101", {"train": {}}, "y", "caltech101/101_ObjectCategories", "categories"
        ),
        "CIFAR10": Published(
            "CIFAR10", _flag(), "targets", "cifar-10-batches-py: data_batch_1 to 5, test_batch"
        ),
        "CIFAR100": Published("CIFAR100", _flag(), "targets", "cifar-100-python: train, test, meta"),
        "Country211": Published(
            "Country211", _named(val="valid"), "targets", "country211: train, valid, test"
        ),
        "DTD": Published("DTD", _named(val="val"), "_labels", "dtd/dtd: images, labels"),
        "EMNIST": _emnist("balanced"),
        "EMNIST-byclass": _emnist("byclass"),
        "EMNIST-digits": _emnist("digits"),
        "EMNIST-letters": _emnist("letters"),
        "EuroSAT": Published("EuroSAT", {"train": {}}, "targets", "eurosat/2750"),
        "FashionMNIST": _idx("FashionMNIST"),
        "FGVCAircraft": Published("FGVCAircraft", _named(val="val"), "_labels", "fgvc-aircraft-2013b/data"),
        "Flowers102": Published(
            "Flowers102", _named(val="val"), "_labels", "flowers-102: jpg, imagelabels.mat, setid.mat"
        ),
        "Food101": Published("Food101", _named(), "_labels", "food-101: images, meta"),
        "GTSRB": Published(
            "GTSRB", _named(), "_samples", "gtsrb: GTSRB/Training, GTSRB/Final_Test, GT-final_test.csv", ()
        ),
        "Imagenette": Published("Imagenette", _named(test="val"), "_samples", "imagenette2: train, val"),
        "KMNIST": _idx("KMNIST"),
        "MNIST": _idx("MNIST", DIGITS),
        "OxfordIIITPet": Published(
            "OxfordIIITPet", _named("trainval"), "_labels", "oxford-iiit-pet: images, annotations"
        ),
        "RenderedSST2": Published(
            "RenderedSST2", _named(val="val"), "_samples", "rendered-sst2: train, valid, test"
        ),
        "StanfordCars": Published(
            "StanfordCars",
            _named(),
            "_samples",
            "stanford_cars: cars_train, cars_test, devkit, cars_test_annos_withlabels.mat",
        ),
        "STL10": Published(
            "STL10", _named(), "labels", "stl10_binary: train_X.bin, train_y.bin, test_X.bin, test_y.bin"
        ),
        "SVHN": Published("SVHN", _named(), "labels", "train_32x32.mat, test_32x32.mat", DIGITS),
        "USPS": Published("USPS", _flag(), "targets", "usps.bz2, usps.t.bz2", DIGITS),
    }
)
"""By the name that the user gives. SUN397 is not one of them: its order depends on the file system."""
