"""The conformance kit passes plugins that keep the contracts, and names the fault of those that do not."""

from __future__ import annotations

import bz2
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Batch,
    ClassTask,
    Components,
    Examples,
    Features,
    Heads,
    InputShapes,
    Learner,
    Side,
    Task,
    TaskStream,
    option,
)
from sidetune_core.config import kinds, registry
from sidetune_core.config.registry import Plugin
from sidetune_core.demonstrations import record_demonstrations
from sidetune_core.errors import OptionError, PluginError
from sidetune_core.testing import Finding, check_distribution, check_plugin, continuations, report
from sidetune_core.testing.networks import BASE_CHECKS, FIRST, LAST
from sidetune_core.testing.plugin import check_names

ACME = Path(__file__).parents[2] / "acme"
BUILT_IN = [
    plugin for kind in kinds.KINDS for plugin in registry.installed(kind) if plugin.distribution == "sidetune"
]


@attrs.frozen
class NoOptions:
    """No options."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A hundred classes of random images, two of each for training and one for testing."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 2), ("test", 1)):
        arrays[f"y_{split}"] = np.arange(100).repeat(count)
        arrays[f"x_{split}"] = random.integers(0, 256, (100 * count, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, **arrays, names=np.array([f"class {k}" for k in range(100)]))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trajectories of BabyAI's bot."""
    env = {"name": "gym", "ids": ["BabyAI-GoToRedBallNoDists-v0"], "time_limit": 8}
    return record_demonstrations(env, tmp_path_factory.mktemp("recorded"), 8, quiet=True).folder


Own = Callable[[Plugin], Mapping[str, Any]]


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Own:
    """Options of single plugins: files that are there, and little work. Nothing else is written."""

    def made(fixture: str, *arguments: Any) -> str:
        value = request.getfixturevalue(fixture)
        return str(value(*arguments) if arguments else value)

    def vit() -> str:
        config = transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32
        )
        config.save_pretrained(tmp_path / "vit")
        return str(tmp_path / "vit")

    def archive() -> dict[str, Any]:
        return {"archive": made("archive")}

    dense, maps = {"image_size": 32, "decoder_width": 16}, ("normal", "segment_semantic")
    options: dict[tuple[str, str], Callable[[], Mapping[str, Any]]] = {
        ("base", "hf-vision"): lambda: {"model": vit()},
        ("base", "taskonomy"): lambda: {"width": 2},
        ("base", "timm"): lambda: {"model": "test_resnet"},
        ("base", "torchvision"): lambda: {"model": "squeezenet1_1"},
        ("base", "transformer"): lambda: {"model": made("tiny_bert")},
        ("env", "cifar10"): archive,
        ("env", "gym"): lambda: {"num_envs": 2, "eval_episodes": 2, "ppo": {"rollout_length": 16}},
        ("env", "hf"): lambda: {"dataset": [str(write_colours(tmp_path / "colours"))]},
        ("env", "hf-text"): lambda: {
            "dataset": [str(write_news(tmp_path / "news.jsonl"))],
            "tokenizer": made("tiny_bert"),
            "max_length": 16,
        },
        ("env", "icifar"): archive,
        ("env", "images"): archive,
        ("env", "imitation"): lambda: {
            "root": [made("recorded")],
            "val_trajectories": 2,
            "eval_episodes": 2,
            "num_envs": 2,
        },
        ("env", "permuted"): lambda: {"count": 2},
        ("env", "rotated"): lambda: {"count": 2},
        ("env", "rgbd"): lambda: {"root": made("write_frames", tmp_path / "frames"), **dense},
        ("env", "rooms"): lambda: {"domains": (*maps, "class_room"), **dense},
        ("env", "squad"): lambda: {
            "tokenizer": made("tiny_bert"),
            "train_file": made("squad_file"),
            "max_length": 48,
            "doc_stride": 16,
        },
        ("env", "taskonomy"): lambda: {
            "root": made("write_taskonomy", tmp_path / "taskonomy"),
            "train_buildings": ("hanson",),
            "test_buildings": ("merom",),
            "cache_dir": str(tmp_path / "cache"),
            "domains": (*maps, "class_object"),
            **dense,
        },
        ("env", "torchvision"): lambda: {"dataset": ["USPS"], "root": str(write_usps(tmp_path / "usps"))},
    }
    return lambda plugin: options.get((plugin.kind.name, plugin.name), dict)()


def write_colours(folder: Path) -> Path:
    """A folder of images of two classes."""
    for number in range(40):
        path = folder / ("red" if number % 2 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (200 * (number % 2), number, 50)).save(path)
    return folder


def write_news(path: Path) -> Path:
    """Texts of two classes."""
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_usps(folder: Path) -> Path:
    """USPS in its own format: a label from 1, then the 256 pixels in [-1, 1] with their numbers."""
    folder.mkdir()
    for name, offset in (("usps.bz2", -0.5), ("usps.t.bz2", -0.4875)):
        lines = [
            " ".join([str(1 + k % 10), *(f"{pixel}:{k / 40 + offset}" for pixel in range(1, 257))])
            for k in range(40)
        ]
        (folder / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    return folder


ELSEWHERE = {
    "habitat": [pytest.mark.skip(reason="tests/plugins/envs/habitat checks it, in an environment of its own")]
}
NOT_OF_ALL = {
    "known_failures_are_checks",
    *(check.__name__ for check in (*BASE_CHECKS, *continuations.CHECKS) if check not in FIRST + LAST),
}
"""Checks that are made of some plugins of a kind only."""
NEEDS_CLASSES = {"regression_is_accepted_or_refused", "labels_are_accepted_or_refused"}
REFUSES = {"ncm": NEEDS_CLASSES, "slda": NEEDS_CLASSES}
"""Checks that are skipped, as the learner refuses such tasks."""
CHECKED = [pytest.param(plugin, marks=ELSEWHERE.get(plugin.name, [])) for plugin in BUILT_IN]


@pytest.mark.parametrize("plugin", CHECKED, ids=lambda plugin: f"{plugin.kind.name}-{plugin.name}")
def test_every_built_in_plugin_conforms(plugin: Plugin, own: Own) -> None:
    known = attrs.fields_dict(registry.load(plugin).Config)
    options = {
        **({"weights": "none"} if "weights" in known else {}),
        **own(plugin),
    }
    findings = check_plugin(plugin.kind.name, f"sidetune/{plugin.name}", options)
    assert failures(findings) == {}
    made, names = {finding.check for finding in findings}, set(check_names(plugin.kind.name))
    if "is_made_of_an_object" not in made:
        assert made <= names
        if not any(finding.check == "can_be_built" and finding.skipped for finding in findings):
            assert names - made <= NOT_OF_ALL
    assert len([finding for finding in findings if not finding.skipped]) > 10
    if plugin.name in REFUSES:
        assert {finding.check for finding in findings if finding.skipped} == REFUSES[plugin.name]


@pytest.mark.parametrize(
    ("kind", "name"), [("learner", "acme_sidetune.bitfit:BitFit"), ("env", "acme_sidetune.blobs:Blobs")]
)
def test_plugins_of_a_third_party_conform(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ACME)
    assert failures(check_plugin(kind, name)) == {}


def test_an_option_is_passed_to_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ACME)
    assert failures(check_plugin("learner", "acme_sidetune.bitfit:BitFit", {"coef": 0.1})) == {}


class Drifting(Learner):
    """Trains heads only, but sets the base to training mode, so running statistics change."""

    Config = NoOptions

    def __init__(self, config: NoOptions, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        self.base.train(torch.is_grad_enabled())
        return self.heads.predict(self.base(inputs).encoding, task_id)


def test_a_learner_that_changes_tensors_it_did_not_return_fails() -> None:
    failed = failures(check("learner", Drifting))
    assert "base.norm.running_mean" in failed["trains_only_what_start_returned"]
    assert "base.last.weight" not in failed["trains_only_what_start_returned"]


class Forgetful(Drifting):
    """Keeps its estimate outside the state dict."""

    strength = 0.0

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        weights = torch.cat([parameter.flatten() for parameter in self.heads.parameters()])
        return {"size": self.strength * weights.square().sum()}

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.strength = 1.0


def test_a_learner_whose_state_is_lost_on_resume_fails() -> None:
    failed = failures(check("learner", Forgetful))
    assert "resumes_exactly_between_tasks" in failed
    assert failed.keys() <= {"resumes_exactly_between_tasks", "resumes_exactly_within_a_task"}
    assert "buffers" in failed["resumes_exactly_between_tasks"]


class Foreign(Drifting):
    """Returns a module that is not its own."""

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [self.heads.add_task(task), nn.Linear(2, 2)]


def test_a_learner_that_returns_a_foreign_module_fails() -> None:
    assert (
        "a Linear that is not part of the learner"
        in failures(check("learner", Foreign))["start_returns_its_own_modules"]
    )


class Vector(Forgetful):
    """A penalty that was not summed."""

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        return {"size": torch.zeros(3)}


def test_a_penalty_with_an_axis_fails() -> None:
    assert (
        "penalty 'size' has shape (3,); return a tensor without axes"
        in failures(check("learner", Vector))["trains_on_two_tasks"]
    )


class Eager(Forgetful):
    """A penalty from the first batch on."""

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        return {"size": torch.ones(())}


def test_a_penalty_before_there_is_a_task_to_protect_fails() -> None:
    failed = failures(check("learner", Eager))
    assert "the penalty for the first batch is 'size' 1" in failed["penalty_is_zero_on_the_first_batch"]


class Unfreezing(Forgetful):
    """Lets gradients reach parameters that it did not return."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        self.base.requires_grad_(torch.is_grad_enabled())
        return super().forward(inputs, task_id)


def test_a_gradient_of_a_parameter_that_was_not_returned_fails() -> None:
    assert (
        "base.first.weight"
        in failures(check("learner", Unfreezing))["gradients_reach_only_what_start_returned"]
    )


class Padding(Forgetful):
    """Returns a third logit without a class."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        logits = super().forward(inputs, task_id)
        return torch.cat([logits, logits.mean(1, keepdim=True)], 1)


def test_outputs_of_another_shape_than_the_heads_fail() -> None:
    assert (
        "has shape (8, 3); return the output of the task's head"
        in failures(check("learner", Padding))["outputs_have_the_shape_of_the_head"]
    )


class Noisy(Base):
    """Prints, and draws random numbers in eval mode."""

    Config = NoOptions

    def __init__(self, config: NoOptions, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (3,)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        print("working on it")
        return Features(inputs["image"].mean((2, 3)) + 1e-9 * float(np.random.rand()))


def test_printing_and_random_numbers_in_evaluation_fail(capsys: pytest.CaptureFixture[str]) -> None:
    failed = failures(check("base", Noisy))
    assert "prints 'working on it'" in failed["nothing_is_printed"]
    assert "draws random numbers" in failed["evaluation_draws_no_random_numbers"]
    assert capsys.readouterr().out == ""


class Seeding(Noisy):
    """Seeds the global generator."""

    def __init__(self, config: NoOptions, inputs: InputShapes) -> None:
        torch.manual_seed(1)
        super().__init__(config, inputs)


def test_a_plugin_that_seeds_the_global_generator_fails() -> None:
    assert "seeds PyTorch's global generator" in failures(check("base", Seeding))["can_be_built"]


def test_an_env_that_draws_from_the_global_generator_fails() -> None:
    assert "reading the data draws" in failures(check("env", Leaky))["global_random_state_is_unchanged"]


class Candid(Eager):
    """Declares a known failure, and two that are none."""

    known_failures = {
        "penalty_is_zero_on_the_first_batch": "the penalty is the method",
        "trains_on_two_tasks": "?",
        "flies": "?",
    }


def test_a_known_failure_counts_as_passed_and_a_superfluous_declaration_as_failed() -> None:
    findings = check("learner", Candid)
    (known,) = [finding for finding in findings if finding.known]
    assert (known.outcome, known.passed) == ("known", True)
    assert known.message.startswith("the penalty is the method (with base: the penalty for the first batch")
    assert failures(findings) == {
        "trains_on_two_tasks": "is declared in known_failures but passes; remove the declaration",
        "known_failures_are_checks": "known_failures names 'flies', which is not a check of this plugin",
    }
    assert "1 known" in report(findings)


class Longstanding(Eager):
    """Declares a known failure under the name that the check had in version 0.1."""

    known_failures = {"penalty_is_zero_before_anything_is_learnt": "the penalty is the method"}


def test_a_known_failure_may_be_declared_under_the_former_name_of_the_check() -> None:
    with pytest.warns(DeprecationWarning, match="is now 'penalty_is_zero_on_the_first_batch'"):
        findings = check("learner", Longstanding)
    assert [finding.check for finding in findings if finding.known] == ["penalty_is_zero_on_the_first_batch"]


DISTRIBUTION = {
    "METADATA": "Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n",
    "entry_points.txt": "[sidetune.mergers]\nLoud = loud.merger:Loud\n",
}
LOUD = """
import random
import attrs
from sidetune_core.api import Merger
print("hello")
random.random()

class Loud(Merger):
    @attrs.frozen
    class Config:
        pass

    def __init__(self, config, shape, count):
        super().__init__()

    def forward(self, encodings):
        return encodings[0]
"""


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with several faults in its metadata and imports."""
    for name, text in DISTRIBUTION.items():
        path = tmp_path / "site" / "loud-1.0.dist-info" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "site" / "loud").mkdir()
    (tmp_path / "site" / "loud" / "__init__.py").write_text("from loud.merger import Loud\n")
    (tmp_path / "site" / "loud" / "merger.py").write_text(LOUD)
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("loud")
def test_faults_of_a_package_are_reported() -> None:
    (checked,) = check_distribution("loud")
    failed = failures(checked.findings)
    assert not checked.passed
    assert failed["name_is_plain"].startswith("the entry point is called 'Loud'; use lower-case letters")
    assert "loud 1.0 does not require sidetune" in failed["distribution_requires_sidetune"]
    assert "importing loud already imports loud.merger" in failed["package_imports_it_only_when_asked"]
    assert "Loud has no docstring" in failed["class_has_a_docstring"]


@pytest.mark.usefixtures("loud")
def test_side_effects_of_an_import_fail(tmp_path: Path) -> None:
    (tmp_path / "site" / "loud" / "__init__.py").write_text("")
    (checked,) = check_distribution("loud")
    assert (
        "prints 'hello' and draws random numbers or seeds a generator"
        in failures(checked.findings)["import_has_no_side_effects"]
    )


def test_an_unknown_distribution_and_an_option_of_no_plugin_are_errors() -> None:
    with pytest.raises(PluginError, match="Did you mean 'sidetune'"):
        check_distribution("sidetun")
    with pytest.raises(OptionError, match="no plugin of sidetune has an option 'flavour'"):
        check_distribution("sidetune", {"weights": "none", "flavour": 1})


class Changeable(Forgetful):
    """Its options are mutable."""

    @attrs.define
    class Config:
        """Options."""

        coef: float = option(1.0, "weight of nothing")


def test_a_config_that_is_not_frozen_fails() -> None:
    (finding,) = check("learner", Changeable)
    assert not finding.passed
    assert finding.check == "name_resolves_to_a_class_of_its_kind"
    assert "decorate it with @attrs.frozen" in finding.message


class Silent(Forgetful):
    """An option without help."""

    @attrs.frozen
    class Config:
        """Options."""

        coef: float = 1.0


def test_an_option_without_a_help_text_fails() -> None:
    assert "coef" in failures(check("learner", Silent))["every_option_has_a_help_text"]


class Mistaken(Base):
    """Declares 32 channels and returns 3."""

    Config = NoOptions

    def __init__(self, config: NoOptions, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (32,)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(inputs["image"].mean((2, 3)))


def test_a_base_of_another_shape_than_declared_fails() -> None:
    failed = failures(check("base", Mistaken))
    assert failed.keys() == {"outputs_have_the_declared_shapes"}
    assert "have shapes (2, 3), but (2, 32) is declared" in failed["outputs_have_the_declared_shapes"]


class Clingy(Side):
    """Keeps the base."""

    Config = NoOptions

    def __init__(self, config: NoOptions, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.base = base

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return features.encoding


def test_a_side_that_keeps_the_base_fails() -> None:
    assert "base.norm.weight" in failures(check("side", Clingy))["base_is_not_kept"]


class FromZero(Examples):
    """Ids start at 0 in every split."""

    def first_id(self, split: str) -> int:
        return 0


class Leaky(TaskStream):
    """Training and test examples have the same ids."""

    Config = NoOptions

    def __init__(self, config: NoOptions, seed: int) -> None:
        self.inputs = {"image": (3, 8, 8)}

    def tasks(self) -> Sequence[Task]:
        splits = ("train", "test")
        examples = FromZero(
            {split: torch.rand(20, 3, 8, 8) for split in splits},
            {split: torch.arange(20) % 2 for split in splits},
        )
        return [ClassTask("t0", "a task", examples, (0, 1), transform=torch.clone)]


def test_an_env_with_overlapping_ids_fails() -> None:
    failed = failures(check("env", Leaky))
    assert "training ids, such as 0, are in split 'test'" in failed["training_examples_are_not_tested"]


class Bursting(Mistaken):
    """Raises an unexpected error."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        raise KeyError("pixels")


def test_an_error_of_a_plugin_becomes_a_finding() -> None:
    assert (
        "raises KeyError: 'pixels' (test_plugin.py, line"
        in failures(check("base", Bursting))["outputs_have_the_declared_shapes"]
    )


def test_an_unknown_name_is_a_finding_and_an_unknown_kind_an_error() -> None:
    (finding,) = check_plugin("learner", "sidetunes")
    assert "Did you mean 'sidetune'?" in finding.message
    with pytest.raises(PluginError, match="no kind of plugin"):
        check_plugin("lerner", "sidetune")


def test_checks_of_a_side_that_does_not_fit_are_skipped_with_the_reason() -> None:
    findings = check_plugin("side", "sidetune/fcn4", {"weights": "none"})
    (skipped,) = [finding for finding in findings if finding.skipped and "fit" in finding.message]
    assert skipped.passed
    assert "shape (8, 4, 4): does not fit" in skipped.message
    assert failures(findings) == {}


def test_the_report_has_a_line_for_each_finding_and_a_line_of_counts() -> None:
    findings = [
        Finding("it_works", True, ""),
        Finding("it_fits", True, "not here", skipped=True),
        Finding("it_is_right", False, "correct it"),
    ]
    assert report(findings).splitlines() == [
        "ok    it works",
        "skip  it fits: not here",
        "FAIL  it is right: correct it",
        "1 passed, 1 skipped, 1 failed",
    ]


def check(kind: str, cls: type[Any]) -> list[Finding]:
    """Findings about a class of this file."""
    return check_plugin(kind, f"{__name__}:{cls.__name__}")


def failures(findings: Sequence[Finding]) -> dict[str, str]:
    """Messages of the checks that failed."""
    return {finding.check: finding.message for finding in findings if not finding.passed}
