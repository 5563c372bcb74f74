"""iCIFAR: CIFAR-100 in ten tasks of ten classes."""

from __future__ import annotations

from .cifar_files import CifarStream, Config


class ICIFAR(CifarStream):
    """Incremental CIFAR-100 of the original code: ten tasks of ten classes, consecutive labels (alphabetical
    order).

    The paper describes a random partition: ``--env.partition random``. The default recipe is the original's
    too: Adam at 1e-3, 157 batches of 128 per task (about four epochs), no augmentation.
    """

    Config = Config
    set_name = "CIFAR100"
    classes_per_task = 10
    recipe = {"steps": 157, "batch_size": 128, "lr": 1e-3}
