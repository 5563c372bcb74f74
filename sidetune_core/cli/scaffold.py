"""A new package with one component: metadata, class, options and test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from sidetune_core.config.kinds import Kind
from sidetune_core.config.registry import installed
from sidetune_core.errors import OptionError
from sidetune_core.storage.atomic import write_text


def create_package(kind: Kind, name: str, out: Path | None = None) -> Path:
    """Write a package that installs, passes `sidetune check`, and runs.

    Args:
        kind: kind of the component.
        name: name of the component, such as ``my_method``.
        out: folder of the package, empty or absent; None for ``sidetune-my-method`` in the current folder.

    Returns:
        The folder.

    Raises:
        OptionError: the name is invalid or taken, or the folder is not empty.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or keyword.iskeyword(module):
        raise OptionError(
            f"'{name}' cannot be the name of a {kind.name}: use lower-case letters, digits, '-' and '_', "
            "e.g. my_method"
        )
    taken = [plugin.origin for plugin in installed(kind) if plugin.name == name]
    if taken:
        raise OptionError(f"{taken[0]} already provides a {kind.name} '{name}'; choose another name")
    distribution = f"sidetune-{name.replace('_', '-')}"
    folder = out if out is not None else Path(distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} is not empty; choose another --out")
    package = f"sidetune_{module}"
    cls = "".join(part.capitalize() for part in module.split("_"))
    fields = {
        "kind": kind.name,
        "kinds": kind.plural,
        "name": name,
        "distribution": distribution,
        "package": package,
        "module": module,
    }
    fields |= {"class": cls, "article": "An" if kind.name == "env" else "A"}
    files = {
        "pyproject.toml": PROJECT,
        f"{package}/__init__.py": '"""$article $kind for sidetune, registered by an entry point."""\n',
        f"{package}/{module}.py": TEMPLATES[kind.name],
        f"tests/test_{module}.py": TEST,
    }
    try:
        for path, text in files.items():
            write_text(folder / path, Template(text).substitute(fields))
    except OSError as error:
        raise OptionError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1"
description = "$article $kind for sidetune"
requires-python = ">=3.11"
dependencies = ["sidetune"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."sidetune.$kinds"]
$name = "$package.$module:$class"

[tool.setuptools]
packages = ["$package"]
"""

TEST = """\
\"\"\"The $kind implements its interface.\"\"\"

from sidetune_core.testing import check_plugin


def test_it_conforms() -> None:
    assert [finding for finding in check_plugin("$kind", "$distribution/$name") if not finding.passed] == []
"""

BASE = """\
\"\"\"$class: a base, the pretrained encoder of an input; frozen unless a learner trains it.\"\"\"

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, Features, FitError, InputShapes, at_least, option


class $class(Base):
    \"\"\"Two convolutions and a mean over positions.

    Input ``image`` (B, C, H, W); encoding (B, width); one tap, after the first layer.

    Raises:
        FitError: the env gives no ``image``.
    \"\"\"

    @attrs.frozen
    class Config:
        \"\"\"Options of the base.\"\"\"

        width: int = option(64, "size of the encoding", at_least(1))

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        if len(inputs.get("image", ())) != 3:
            raise FitError(f"base '$name' needs an input 'image' of shape (C, H, W); got {dict(inputs)}")
        channels, height, width = inputs["image"]
        self.first = nn.Conv2d(channels, config.width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(config.width, config.width, 3, stride=2, padding=1)
        self.shape = (config.width,)
        self.tap_shapes = ((config.width, (height + 1) // 2, (width + 1) // 2),)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        \"\"\"The encoding (B, width) and the tap.\"\"\"
        first = functional.relu(self.first(inputs["image"]))
        return Features(functional.relu(self.second(first)).mean((2, 3)), (first,))
"""

SIDE = """\
\"\"\"$class: a side, the small network that is trained next to the base.\"\"\"

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, Side, at_least, option


class $class(Side):
    \"\"\"Two convolutions and a mean over positions. Input ``image`` (B, C, H, W); encoding (B, *base.shape).

    Raises:
        FitError: the env gives no ``image``, or the base's encoding is not a vector.
    \"\"\"

    @attrs.frozen
    class Config:
        \"\"\"Options of the side.\"\"\"

        width: int = option(16, "channels of the first layer", at_least(1))

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        if len(inputs.get("image", ())) != 3 or len(base.shape) != 1:
            raise FitError(
                "side '$name' needs an input 'image' (C, H, W) and a base of shape (C,); "
                f"got {dict(inputs)} and {base.shape}"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(inputs["image"][0], config.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, base.shape[0], 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        \"\"\"The encoding (B, *base.shape); `features` are the base's, for sides that build on them.\"\"\"
        encoding: Tensor = self.layers(inputs["image"]).mean((2, 3))
        return encoding
"""

MERGER = """\
\"\"\"$class: a merger, which fuses the encodings of base and side.\"\"\"

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape, option


class $class(Merger):
    \"\"\"The base's encoding plus the others, each times a learned scale: (B, *shape) each.\"\"\"

    @attrs.frozen
    class Config:
        \"\"\"Options of the merger.\"\"\"

        start: float = option(1.0, "initial scale of the encodings other than the base's")

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((count - 1,), config.start))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        \"\"\"(B, *shape); the base's comes first in `encodings`.\"\"\"
        base, *others = encodings
        for scale, other in zip(self.scale, others, strict=True):
            base = base + scale * other
        return base

    def weights(self) -> dict[str, float]:
        \"\"\"``scale``: the mean factor.\"\"\"
        return {"scale": float(self.scale.detach().mean())}
"""

LEARNER = """\
\"\"\"$class: a learner, which owns every weight and selects the trainable ones of each task.\"\"\"

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Components, Heads, Learner, Task, option


class $class(Learner):
    \"\"\"A frozen base; each task trains a scale for every channel of the encoding, and a head.\"\"\"

    @attrs.frozen
    class Config:
        \"\"\"Options of the learner.\"\"\"

        norm: bool = option(True, "normalise the encoding before the head")

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.scales = nn.ParameterDict()
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        \"\"\"Add the modules of a task, and return what is trainable; the core freezes the rest.\"\"\"
        self.scales[task.id] = nn.Parameter(torch.ones(self.base.shape))
        return [self.scales[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        \"\"\"The output of a task's head for a batch.\"\"\"
        return self.heads.predict(self.scales[task_id] * self.base(inputs).encoding, task_id)
"""

ENV = """\
\"\"\"$class: an env, a stream of tasks.\"\"\"

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from sidetune_core.api import ClassTask, Examples, TaskStream, at_least, derive_seed, option

SIZE = 32
TASKS = 2


class $class(TaskStream):
    \"\"\"Two tasks of two classes of noise, which differ in the brightness of the left half.

    Input ``image`` (3, 32, 32) in [0, 1].
    \"\"\"

    @attrs.frozen
    class Config:
        \"\"\"Options of the env.\"\"\"

        examples: int = option(64, "training examples per class, four times those for testing", at_least(4))

    recipe = {"steps": 40, "batch_size": 32}

    def __init__(self, config: Config, seed: int) -> None:
        self._config, self._seed = config, seed
        self.inputs = {"image": (3, SIZE, SIZE)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[ClassTask]:
        \"\"\"All tasks, in order; data is read here.\"\"\"
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "$name"))
        counts = {"train": self._config.examples, "test": self._config.examples // 4}
        labels = {split: torch.arange(2 * TASKS).repeat(count) for split, count in counts.items()}
        images = {
            split: torch.rand(len(label), 3, SIZE, SIZE, generator=generator)
            for split, label in labels.items()
        }
        for split, label in labels.items():
            images[split][:, :, :, : SIZE // 2] *= (0.2 + 0.25 * label.float()).view(-1, 1, 1, 1)
        examples = Examples(images, labels)
        self._fingerprint = examples.fingerprint("as it is")
        return [
            ClassTask(f"t{k}", f"$name {k}", examples, (2 * k, 2 * k + 1), transform=torch.clone)
            for k in range(TASKS)
        ]

    def fingerprint(self) -> str:
        \"\"\"A digest of the data, by which outputs of a frozen base are cached.\"\"\"
        return self._fingerprint
"""

TEMPLATES = {"base": BASE, "side": SIDE, "merger": MERGER, "learner": LEARNER, "env": ENV}
