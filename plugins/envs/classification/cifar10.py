"""CIFAR-10 in one task or several."""

from __future__ import annotations

from .cifar_files import CifarStream, Config


class CIFAR10(CifarStream):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images; one task by default."""

    Config = Config
    set_name = "CIFAR10"
    recipe = {"epochs": 20.0, "batch_size": 128, "lr": 1e-3}
