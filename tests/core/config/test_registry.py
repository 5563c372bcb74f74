"""The registry finds, loads and checks real distributions, and says plainly what is wrong with a broken
one."""

from __future__ import annotations

import email
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from sidetune_core.config import kinds
from sidetune_core.config.options import FormerSpelling
from sidetune_core.config.registry import Plugin, find, installed, load
from sidetune_core.errors import PluginError

# A group of its own, so that what else is installed plays no part.
LEARNER = attrs.evolve(kinds.LEARNER, group="sidetune.learners-under-test")

GOOD = """
import attrs
from sidetune_core.interfaces.learner import Learner

class Foo(Learner):
    @attrs.frozen
    class Config:
        coef: float = 1.0

    def start(self, task):
        return []

    def forward(self, inputs, task_id):
        raise NotImplementedError
"""

FOO = {"foo": "acme_foo:Foo"}
ACME_FOO = {"acme_foo": GOOD}

FakeDistribution = Callable[..., Path]


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """Makes distributions, each in a folder of its own on sys.path, and forgets their modules afterwards."""
    before = set(sys.modules)

    def make(
        name: str = "acme",
        version: str = "2.0",
        learners: Mapping[str, str] = FOO,
        modules: Mapping[str, str] = ACME_FOO,
        metadata_lines: Sequence[str] = (),
        folder: str = "",
    ) -> Path:
        place = tmp_path / (folder or name)
        information = place / f"{name.replace('-', '_')}-{version}.dist-info"
        information.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata_lines]
        (information / "METADATA").write_text("\n".join(lines) + "\n")
        (information / "WHEEL").write_text("Wheel-Version: 1.0\n")
        entries = [f"{key} = {target}" for key, target in learners.items()]
        (information / "entry_points.txt").write_text("\n".join([f"[{LEARNER.group}]", *entries]) + "\n")
        for module, source in modules.items():
            path = place.joinpath(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        if (
            str(place) not in sys.path
        ):  # this also clears the caches of the import system, which the first time is a must
            monkeypatch.syspath_prepend(place)
        return place

    yield make
    for module in set(sys.modules) - before:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[module]


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(PluginError) as caught:
        action()
    return str(caught.value)


def failure_of(source: str, fake_distribution: FakeDistribution, **changes: object) -> str:
    """The message when loading 'foo' of acme 2.0, whose module holds `source`."""
    fake_distribution(modules={"acme_foo": source}, **changes)
    return message_of(lambda: load(find(LEARNER, "foo")))


# --- installed


def test_installed_tells_name_distribution_version_and_target(fake_distribution: FakeDistribution) -> None:
    fake_distribution()
    assert installed(LEARNER) == (Plugin(LEARNER, "foo", "acme", "2.0", "acme_foo:Foo"),)
    assert installed(LEARNER)[0].title == "learner 'foo' (acme 2.0)"


def test_installed_sorts_by_name_then_distribution(fake_distribution: FakeDistribution) -> None:
    fake_distribution("zeta", learners={"ewc": "z:Z", "bsp": "z:Y"}, modules={})
    fake_distribution("acme", learners={"ewc": "a:A"}, modules={})
    assert [(plugin.name, plugin.distribution) for plugin in installed(LEARNER)] == [
        ("bsp", "zeta"),
        ("ewc", "acme"),
        ("ewc", "zeta"),
    ]


def test_installed_and_find_import_nothing(fake_distribution: FakeDistribution) -> None:
    fake_distribution(modules={"acme_foo": "raise RuntimeError('imported')"})
    installed(LEARNER)
    find(LEARNER, "foo")
    assert "acme_foo" not in sys.modules


def test_metadata_is_parsed_per_package_with_plugins_not_per_plugin(
    fake_distribution: FakeDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_distribution(learners={f"foo{index}": "acme_foo:Foo" for index in range(50)})
    parsed: list[object] = []
    parse = email.message_from_string
    monkeypatch.setattr(email, "message_from_string", lambda text: (parsed.append(text), parse(text))[1])
    assert len(installed(LEARNER)) == 50
    assert 0 < len(parsed) <= 5


def test_a_distribution_seen_twice_counts_once(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme-sidetune", folder="one")
    fake_distribution("acme-sidetune", folder="two")
    assert len(installed(LEARNER)) == 1


def test_an_egg_info_beside_the_dist_info_counts_once(fake_distribution: FakeDistribution) -> None:
    place = fake_distribution("acme-sidetune")
    egg = place / "Acme_Sidetune.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: Acme.Sidetune\nVersion: 2.0\n")
    (egg / "entry_points.txt").write_text(f"[{LEARNER.group}]\nfoo = acme_foo:Foo\n")
    assert len(installed(LEARNER)) == 1


def test_what_an_old_build_left_in_the_checkout_does_not_hide_what_is_installed(
    fake_distribution: FakeDistribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_distribution("acme", learners={"foo": "acme_foo:Foo", "bar": "acme_foo:Foo"})
    egg = tmp_path / "checkout" / "acme.egg-info"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 2.0\n")
    (egg / "entry_points.txt").write_text(f"[{LEARNER.group}]\nfoo = acme_foo:Foo\n")
    monkeypatch.syspath_prepend(egg.parent)
    assert [plugin.name for plugin in installed(LEARNER)] == ["bar", "foo"]


def test_a_folder_left_behind_without_metadata_is_passed_over(fake_distribution: FakeDistribution) -> None:
    place = fake_distribution()
    (place / "acme-2.0.dist-info" / "METADATA").unlink()
    fake_distribution("beta")
    assert [plugin.distribution for plugin in installed(LEARNER)] == ["beta"]


def test_a_plugin_installed_a_moment_ago_is_seen(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme", folder="site")
    assert [plugin.name for plugin in installed(LEARNER)] == ["foo"]
    fake_distribution("beta", learners={"bar": "beta_bar:Foo"}, modules={"beta_bar": GOOD}, folder="site")
    assert [plugin.name for plugin in installed(LEARNER)] == ["bar", "foo"]
    assert load(find(LEARNER, "bar")).__module__ == "beta_bar"


def test_a_reinstall_with_another_class_is_seen_at_once(fake_distribution: FakeDistribution) -> None:
    place = fake_distribution()
    assert find(LEARNER, "foo").target == "acme_foo:Foo"
    (place / "acme-2.0.dist-info" / "entry_points.txt").write_text(f"[{LEARNER.group}]\nfoo = acme_foo:Bar\n")
    assert find(LEARNER, "foo").target == "acme_foo:Bar"


# --- find


def test_an_unknown_name_gets_the_nearest_and_all_there_are(fake_distribution: FakeDistribution) -> None:
    fake_distribution(learners={"ewc": "a:A", "bsp": "a:B"}, modules={})
    said = message_of(lambda: find(LEARNER, "ewx"))
    assert said == "no learner named 'ewx'. Did you mean 'ewc'? Installed: bsp, ewc"


def test_nothing_installed_says_how_to_install_sidetune() -> None:
    said = message_of(lambda: find(LEARNER, "ewc"))
    assert said == "no learner named 'ewc': no package provides any. Is sidetune installed? pip install -e ."


def test_two_packages_with_one_name_are_told_apart_without_an_import(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution("sidetune", "0.1", learners={"ewc": "acme_foo:Foo"})
    fake_distribution("acme", "2.0", learners={"ewc": "acme_foo:Foo"})
    said = message_of(lambda: find(LEARNER, "ewc"))
    assert said == "learner 'ewc' is in acme 2.0 and sidetune 0.1; write acme/ewc or sidetune/ewc"
    assert "acme_foo" not in sys.modules


def test_a_name_between_the_two_does_not_hide_them(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme", learners={"ewc": "a:A"}, modules={})
    fake_distribution("beta", learners={"bsp": "b:B"}, modules={})
    fake_distribution("zeta", learners={"ewc": "z:Z"}, modules={})
    assert "acme/ewc or zeta/ewc" in message_of(lambda: find(LEARNER, "ewc"))


def test_a_distribution_before_the_name_picks_the_right_one(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme", learners={"ewc": "acme_ewc:Foo"}, modules={"acme_ewc": GOOD})
    fake_distribution("beta", learners={"ewc": "beta_ewc:Foo"}, modules={"beta_ewc": GOOD})
    assert load(find(LEARNER, "acme/ewc")).__module__ == "acme_ewc"
    assert load(find(LEARNER, "beta/ewc")).__module__ == "beta_ewc"


@pytest.mark.parametrize("spelling", ["acme-sidetune", "Acme_Sidetune", "ACME.sidetune"])
def test_distributions_compare_by_their_normal_names(
    spelling: str, fake_distribution: FakeDistribution
) -> None:
    fake_distribution("acme-sidetune")
    assert find(LEARNER, f"{spelling}/foo").distribution == "acme-sidetune"


def test_an_unknown_distribution_gets_the_nearest(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme")
    fake_distribution("beta")
    said = message_of(lambda: find(LEARNER, "acne/foo"))
    assert (
        said == "no learner named 'foo' in 'acne'. Did you mean 'acme'? Packages with a learner: acme, beta"
    )


def test_an_unknown_name_in_a_distribution_shows_what_that_one_has(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution("acme", learners={"ewc": "a:A"}, modules={})
    fake_distribution("beta", learners={"ewx": "b:B"}, modules={})
    said = message_of(lambda: find(LEARNER, "acme/ewx"))
    assert said == "no learner named 'ewx' in acme 2.0. Did you mean 'ewc'? Installed: ewc"


# --- former names


@pytest.fixture
def renamed(fake_distribution: FakeDistribution) -> None:
    """A package whose learner 'bar' was called 'foo'."""
    place = fake_distribution(learners={"bar": "acme_foo:Foo"})
    with (place / "acme-2.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write(f"[{LEARNER.former_group}]\nfoo = acme_foo:Foo\nlost = acme_foo:Lost\n")


@pytest.mark.usefixtures("renamed")
@pytest.mark.parametrize("choice", ["foo", "acme/foo"])
def test_a_former_name_finds_the_present_component_with_a_warning(choice: str) -> None:
    with pytest.warns(FormerSpelling, match="learner 'foo' is now 'bar'"):
        assert find(LEARNER, choice).name == "bar"
    assert "acme_foo" not in sys.modules


@pytest.mark.usefixtures("renamed")
def test_a_former_name_of_a_recorded_run_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert find(LEARNER, "acme/foo", recorded=True).name == "bar"
    assert not recwarn.list


@pytest.mark.usefixtures("renamed")
def test_a_former_name_is_not_listed() -> None:
    assert [plugin.name for plugin in installed(LEARNER)] == ["bar"]


@pytest.mark.usefixtures("renamed")
def test_a_present_name_of_another_package_precedes_a_former_one(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution("beta")
    assert find(LEARNER, "foo").distribution == "beta"


@pytest.mark.usefixtures("renamed")
def test_a_former_name_of_no_present_component_is_refused() -> None:
    assert message_of(lambda: find(LEARNER, "lost")) == (
        "learner 'lost' (acme 2.0): its target acme_foo:Lost, of a former name, is that of no present learner"
    )


@pytest.mark.usefixtures("renamed")
def test_a_misspelt_former_name_gets_the_present_one() -> None:
    assert "Did you mean 'bar' (formerly 'foo')?" in message_of(lambda: find(LEARNER, "fooo"))


# --- load


def test_load_returns_the_class(fake_distribution: FakeDistribution) -> None:
    fake_distribution()
    assert load(find(LEARNER, "foo")) is sys.modules["acme_foo"].Foo


def test_a_class_whose_instances_are_falsy_is_loaded_all_the_same(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution(modules={"acme_foo": GOOD + "\n    def __len__(self):\n        return 0\n"})
    assert load(find(LEARNER, "foo")).__name__ == "Foo"


@pytest.mark.parametrize(
    ("requirement", "module", "command"),
    [
        ('habitat; extra == "sim"', "habitat", "pip install 'acme[sim]'"),
        ('habitat-lab (>=0.3) ; extra == "sim"', "habitat", "pip install 'acme[sim]'"),
        (
            "Habitat_Sim>=0.3; python_version > '3' and extra == 'sim'",
            "habitat_sim.utils",
            "pip install 'acme[sim]'",
        ),
        ("habitat-lab>=0.3", "habitat", "pip install 'habitat-lab>=0.3'"),
        ('habitation; extra == "sim"', "habitat", "pip install habitat"),
    ],
)
def test_a_missing_library_names_what_brings_it(
    requirement: str, module: str, command: str, fake_distribution: FakeDistribution
) -> None:
    said = failure_of(f"import {module}", fake_distribution, metadata_lines=[f"Requires-Dist: {requirement}"])
    missing = module.partition(".")[0]
    assert said == f"learner 'foo' (acme 2.0) needs '{missing}': {command}"


def test_the_extra_named_for_the_library_is_preferred(fake_distribution: FakeDistribution) -> None:
    lines = ['Requires-Dist: habitat-lab; extra == "all"', 'Requires-Dist: habitat-lab; extra == "habitat"']
    assert failure_of("import habitat", fake_distribution, metadata_lines=lines).endswith(
        "pip install 'acme[habitat]'"
    )


def test_an_extra_named_for_the_plugin_brings_a_library_of_another_name(
    fake_distribution: FakeDistribution,
) -> None:
    lines = ["Provides-Extra: foo", 'Requires-Dist: no-such-python; extra == "foo"']
    assert failure_of("import nsp", fake_distribution, metadata_lines=lines).endswith(
        "needs 'nsp': pip install 'acme[foo]'"
    )


def test_a_library_that_lacks_a_part_is_known_by_its_distribution(
    fake_distribution: FakeDistribution,
) -> None:
    scikit = fake_distribution("scikit-fake", learners={}, modules={"skfake.__init__": ""})
    (scikit / "scikit_fake-2.0.dist-info" / "top_level.txt").write_text("skfake\n")
    lines = ['Requires-Dist: scikit-fake>=3; extra == "trees"']
    said = failure_of("import skfake.trees", fake_distribution, metadata_lines=lines)
    assert said == "learner 'foo' (acme 2.0) needs 'skfake.trees': pip install 'acme[trees]'"


def test_a_missing_library_keeps_its_cause(fake_distribution: FakeDistribution) -> None:
    fake_distribution(modules={"acme_foo": "import habitat"})
    with pytest.raises(PluginError) as caught:
        load(find(LEARNER, "foo"))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("module", ["acme_foo.lost", "sidetune_core.lost"])
def test_a_missing_module_of_the_plugin_or_of_ours_is_no_library(
    module: str, fake_distribution: FakeDistribution
) -> None:
    said = failure_of(f"import {module}", fake_distribution)
    assert said.startswith(
        "learner 'foo' (acme 2.0): importing 'acme_foo' fails with "
        f"ModuleNotFoundError: No module named '{module}'"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck\\nand more')", "RuntimeError: no luck"),
        ("from sidetune_core.errors import Lost", "ImportError: cannot import name 'Lost'"),
        ("raise AttributeError('inside')", "AttributeError: inside"),
        ("assert False", "AssertionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(0)", "SystemExit: os._exit(0)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class Odd(BaseException): ...\nraise Odd('odd')", "Odd: odd"),
        ("def", "SyntaxError: invalid syntax (acme_foo.py, line 1)"),
    ],
)
def test_a_module_that_fails_on_import_is_named_and_chained(
    source: str, reason: str, fake_distribution: FakeDistribution
) -> None:
    fake_distribution(modules={"acme_foo": source})
    with pytest.raises(PluginError) as caught:
        load(find(LEARNER, "foo"))
    assert str(caught.value).startswith(f"learner 'foo' (acme 2.0): importing 'acme_foo' fails with {reason}")
    assert "\n" not in str(caught.value)
    assert type(caught.value.__cause__).__name__ == reason.partition(":")[0]


def test_an_entry_point_that_names_no_attribute_is_said(fake_distribution: FakeDistribution) -> None:
    said = failure_of(GOOD, fake_distribution, learners={"foo": "acme_foo:Fooo"})
    assert said == (
        "learner 'foo' (acme 2.0): module 'acme_foo' has no attribute 'Fooo'. Did you mean 'Foo'?"
    )


def test_what_is_no_class_is_said(fake_distribution: FakeDistribution) -> None:
    said = failure_of("def Foo(): ...", fake_distribution)
    assert said == "learner 'foo' (acme 2.0): acme_foo:Foo is not a class; name a class in the entry point"


def test_a_class_of_another_kind_is_told_what_to_derive_from(fake_distribution: FakeDistribution) -> None:
    said = failure_of("class Foo: ...", fake_distribution)
    assert said == "learner 'foo' (acme 2.0): Foo is not a Learner; derive it from sidetune_core.api.Learner"


def test_a_method_that_is_not_defined_is_named(fake_distribution: FakeDistribution) -> None:
    said = failure_of(GOOD.replace("def start", "def begin"), fake_distribution)
    assert said == "learner 'foo' (acme 2.0): Foo does not define start()"


def test_all_methods_that_are_not_defined_are_named(fake_distribution: FakeDistribution) -> None:
    said = failure_of(
        "from sidetune_core.interfaces.learner import Learner\nclass Foo(Learner): ...", fake_distribution
    )
    assert said == "learner 'foo' (acme 2.0): Foo does not define start(), forward()"


def test_an_abstract_method_of_the_plugin_s_own_is_named(fake_distribution: FakeDistribution) -> None:
    abstract = "\n    @__import__('abc').abstractmethod\n    def importance(self): ...\n"
    assert failure_of(GOOD + abstract, fake_distribution).endswith("Foo does not define importance()")


def test_the_forward_that_every_module_inherits_does_not_count(fake_distribution: FakeDistribution) -> None:
    source = GOOD.replace("def forward", "forward = __import__('torch').nn.Module.forward\n\n    def other")
    assert failure_of(source, fake_distribution).endswith("Foo does not define forward()")


def test_a_class_without_config_is_told_to_have_one(fake_distribution: FakeDistribution) -> None:
    said = failure_of(GOOD.replace("class Config", "class Options"), fake_distribution)
    assert said == (
        "learner 'foo' (acme 2.0): Foo has no Config; "
        "give it a class Config, decorated with @attrs.frozen, with its options"
    )


@pytest.mark.parametrize(
    "decorator", ["@attrs.define", "@__import__('dataclasses').dataclass(frozen=True)", ""]
)
def test_a_config_that_is_not_frozen_attrs_is_told_the_decorator(
    decorator: str, fake_distribution: FakeDistribution
) -> None:
    said = failure_of(GOOD.replace("@attrs.frozen", decorator), fake_distribution)
    assert (
        said
        == "learner 'foo' (acme 2.0): Foo.Config is not a frozen attrs class; decorate it with @attrs.frozen"
    )


def test_an_option_without_a_default_is_named(fake_distribution: FakeDistribution) -> None:
    said = failure_of(GOOD.replace("coef: float = 1.0", "coef: float"), fake_distribution)
    assert said == "learner 'foo' (acme 2.0): Foo.Config has no default for coef; every option needs one"


def test_a_type_hint_that_cannot_be_read_is_said(fake_distribution: FakeDistribution) -> None:
    source = "from __future__ import annotations\n" + GOOD.replace("coef: float", "coef: Lost")
    assert failure_of(source, fake_distribution).endswith(
        "Foo.Config: the types of its options cannot be read: NameError: name 'Lost' is not defined"
    )


@pytest.mark.parametrize(
    "hint",
    ["list[int]", "dict[str, float]", "frozenset[str]", "tuple[int, int]", "tuple[()]", "complex", "Any"]
    + ["int | str", "Colour", "Inner", "Inner | None", "Literal[None]", "Literal[Colour.RED]", "bytes"],
)
def test_an_unsupported_type_is_named(hint: str, fake_distribution: FakeDistribution) -> None:
    source = GOOD.replace("coef: float = 1.0", f"coef: {hint} = None") + (
        "\nimport enum\nfrom typing import Any, Literal\nColour = enum.Enum('Colour', 'RED')\n"
        "@attrs.define\nclass Inner:\n    width: int = 1\n"
    )
    said = failure_of("from __future__ import annotations\n" + source, fake_distribution)
    assert said.startswith("learner 'foo' (acme 2.0): Foo.Config has options of unsupported types: coef: ")


@pytest.mark.parametrize(
    "hint",
    ["Path", "Path | None", "Literal['a', 'b']", "Literal[1, 2]", "tuple[int, ...]", "Optional[int]"]
    + ["bool | None", "Inner", "tuple[Literal['a'], ...] | None"],
)
def test_a_supported_type_is_accepted(hint: str, fake_distribution: FakeDistribution) -> None:
    source = GOOD.replace("coef: float = 1.0", f"coef: {hint} = None") + (
        "\nfrom pathlib import Path\nfrom typing import Literal, Optional\n"
        "@attrs.frozen\nclass Inner:\n    width: int = 1\n"
    )
    fake_distribution(modules={"acme_foo": "from __future__ import annotations\n" + source})
    assert load(find(LEARNER, "foo")).__name__ == "Foo"


def test_an_import_that_changes_the_folder_leaves_the_run_where_it_is(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution(modules={"acme_foo": "import os; os.chdir('/')\n" + GOOD})
    before = os.getcwd()
    load(find(LEARNER, "foo"))
    assert os.getcwd() == before


def test_a_package_of_a_zip_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "zed-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("zed_mod.py", GOOD)
        file.writestr("zed-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zed\nVersion: 1.0\n")
        file.writestr("zed-1.0.dist-info/entry_points.txt", f"[{LEARNER.group}]\nzed = zed_mod:Foo\n")
    monkeypatch.syspath_prepend(wheel)
    assert load(find(LEARNER, "zed")).__name__ == "Foo"


# --- the current folder


@pytest.fixture
def current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_distribution: FakeDistribution
) -> Path:
    folder = tmp_path / "research"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_class_in_the_current_folder_is_loaded(current_folder: Path) -> None:
    (current_folder / "my_module.py").write_text(GOOD)
    plugin = find(LEARNER, "my_module:Foo", trust_local_code=True)
    assert (plugin.distribution, plugin.version, plugin.title) == (
        "local",
        "",
        "learner 'my_module:Foo' (local)",
    )
    assert load(plugin).__name__ == "Foo"


@pytest.mark.parametrize("source", [GOOD, "raise RuntimeError", f"import sys\nsys.path.pop(0)\n{GOOD}"])
def test_the_search_path_is_afterwards_as_it_was(source: str, current_folder: Path) -> None:
    (current_folder / "my_module.py").write_text(source)
    before = list(sys.path)
    with suppress(PluginError):
        load(find(LEARNER, "my_module:Foo", trust_local_code=True))
    assert sys.path == before


def test_a_library_that_the_current_folder_s_module_lacks_is_named(current_folder: Path) -> None:
    (current_folder / "my_module.py").write_text("import habitat")
    said = message_of(lambda: load(find(LEARNER, "my_module:Foo", trust_local_code=True)))
    assert said == (
        "learner 'my_module:Foo' (local) imports 'habitat' (my_module.py, line 1), which is not installed; "
        "install its package, or correct the import"
    )


def test_the_line_of_the_current_folder_s_module_that_fails_is_named(current_folder: Path) -> None:
    (current_folder / "my_module.py").write_text("import sys\nfrom .other import Foo")
    said = message_of(lambda: load(find(LEARNER, "my_module:Foo", trust_local_code=True)))
    assert "importing 'my_module' fails (my_module.py, line 2) with ImportError" in said


def test_a_module_that_is_not_in_the_current_folder_is_said(current_folder: Path) -> None:
    said = message_of(lambda: load(find(LEARNER, "my_modul:Foo", trust_local_code=True)))
    assert said.endswith("importing 'my_modul' fails with ModuleNotFoundError: No module named 'my_modul'")


@pytest.mark.parametrize("choice", ["my_module:", ":Foo", "./my_module.py:Foo"])
def test_a_choice_that_is_no_module_and_class_is_shown_the_form(choice: str) -> None:
    said = message_of(lambda: find(LEARNER, choice))
    assert said == f"'{choice}' is not a learner; write module:Class, such as my_module:MyLearner"


def test_an_option_of_an_unsupported_type_is_refused_by_name(fake_distribution: FakeDistribution) -> None:
    source = GOOD.replace("coef: float = 1.0", "coef: float = 1.0\n        names: set = frozenset()")
    message = failure_of(source, fake_distribution)
    assert "Foo.Config has options of unsupported types: names: set. Supported: bool, int, float" in message
