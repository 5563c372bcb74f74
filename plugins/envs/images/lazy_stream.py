"""Envs of labelled images that are read when they are needed, whatever has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from sidetune_core.api import DataPart, ImageInput, SupervisedTask, TaskStream

from .content import content_digest
from .identity import Identity, identify
from .preprocess import Preprocess
from .reader import Reader
from .task import FileTask

if TYPE_CHECKING:
    from .options import LazyOptions

DEFAULT_SIZE = 32
"""Height and width where neither the user nor the base says."""

C = TypeVar("C")


def fit_images(config: C, images: ImageInput | None) -> C:
    """The options with size, interpolation and crop filled in: those of the base, or 32 pixels, bilinear
    and the whole centre square (see `FitsImages`)."""
    given: Any = config
    base = images or ImageInput(DEFAULT_SIZE)
    filled: C = attrs.evolve(
        given,
        image_size=base.size if given.image_size is None else given.image_size,
        interpolation=base.interpolation if given.interpolation == "auto" else given.interpolation,
        crop_fraction=base.crop_fraction if given.crop_fraction is None else given.crop_fraction,
    )
    return filled


class LazyImageStream(TaskStream):
    """Base class: tasks on the images that a `Reader` finds, and their fingerprints."""

    shared_ids = True  # an id is an image, in whatever task its class is
    _identity = Identity("", "", {})
    _file_content = ""
    _opened: Sequence[SupervisedTask] = ()

    def read_tasks(self, reader: Reader, preprocess: Preprocess, options: LazyOptions) -> list[FileTask]:
        """The tasks of the images that `reader` finds."""
        found = reader.read()
        self._identity = identify(found.plan, found.digests, preprocess.card())
        self._file_content = (
            content_digest(found.plan, found.digests) if options.val_fraction else self._identity.data
        )
        tasks = [
            FileTask(
                task.id,
                task.title,
                task.images,
                preprocess,
                cache=found.cache,
                stamps=found.digests.stamps,
                augment=options.augment,
                threads=options.threads,
                weights=options.class_weights,
                sampling=options.sampling,
                store=reader.store,
            )
            for task in found.plan.tasks
        ]
        self._opened = tasks
        return tasks

    def fingerprint(self) -> str:
        return self._identity.inputs or super().fingerprint()

    def data_fingerprint(self) -> str:
        return self._identity.data or super().data_fingerprint()

    def content_fingerprint(self) -> str:
        return self._file_content or super().content_fingerprint()

    def data_parts(self) -> Mapping[str, DataPart]:
        return self._identity.parts or super().data_parts()

    def close(self) -> None:
        for task in self._opened:
            for source in task.sources.values():
                source.close()
