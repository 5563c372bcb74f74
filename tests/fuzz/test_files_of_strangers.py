"""A file of a stranger runs no code, writes nothing elsewhere, does not hang, and fills no memory.

Each case is one file, or folder, and what a user does with it; memory is limited by the fixture of all tests
here. The answers are errors that say what is wrong, or the output of a command.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sidetune_core
from sidetune_core.certificate.verify import verify
from sidetune_core.cli.main import main
from sidetune_core.config import kinds, registry
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec_file import read_spec
from sidetune_core.demonstrations import open_demonstrations
from sidetune_core.errors import SidetuneError
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import read_tensors
from sidetune_core.sweeps.grid import plan, read

SECONDS = 30
GIANT = 10**11
"""Bytes of a sparse file."""

CODE = "open('canary', 'w').close()\nclass Evil: ...\n"
CASES: dict[str, tuple[Callable[[Path], Any], str]] = {}
"""By name: what is done in a folder with a copy of a run in ``run``, and words of the answer."""

Case = Callable[[Path], Any]


def case(words: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[function.__name__.replace("_", "-")] = (function, words)
        return function

    return add


class Watch:
    """What the process opens for writing outside of a folder, and the programs that it starts."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.found: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
            self.found.append(f"{event} {arguments[0]}")
        if event == "open" and isinstance(arguments[0], str):
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            inside = Path(path).absolute().is_relative_to(self.folder)
            if writes and not inside and not path.startswith("/dev/") and "__pycache__" not in path:
                self.found.append(f"writes {path}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two tasks."""
    env = {"name": "digits", "num-tasks": 2}
    base = {"name": "resnet20", "weights": "none"}
    spec = sidetune_core.RunSpec(base=base, learner="features", env=env, train={"steps": 1, "batch-size": 8})
    return sidetune_core.run(spec, tmp_path_factory.mktemp("a") / "run").folder.path


@pytest.fixture
def place(tmp_path: Path, a_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a copy of the run and a module that must not be imported."""
    shutil.copytree(a_run, tmp_path / "run")
    (tmp_path / "evil.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, GIANT)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def change(path: Path, **values: Any) -> None:
    """Set entries of a JSON file; a key may have dots."""
    content = json.loads(path.read_text())
    for key, value in values.items():
        *tables, last = key.split(".")
        target = content
        for table in tables:
            target = target[int(table) if isinstance(target, list) else table]
        target[last] = value
    path.write_text(json.dumps(content))


def env(name: str, **options: Any) -> Any:
    """The tasks of an env."""
    cls = registry.load(registry.find(kinds.ENV, name))
    return cls(cls.Config(**options), 0).tasks()


def bomb(path: Path, name: str) -> None:
    """A zip archive of a megabyte with a file of 300."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(10**6))


def png(path: Path, width: int, height: int) -> None:
    """A PNG file of a few bytes that says it has this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


# specs


@case("learner 'evil:Evil' in spec.json is code to import")
def spec_that_names_code(place: Path) -> Any:
    (place / "spec.json").write_text('{"learner": "evil:Evil"}')
    return resolve(read_spec(Path("spec.json")))


@case("'evil:Env-v0' of option ids in spec.toml is code to import")
def spec_whose_env_names_code(place: Path) -> Any:
    (place / "spec.toml").write_text('learner = "scratch"\nenv = {name = "gym", ids = ["evil:Env-v0"]}')
    return resolve(read_spec(Path("spec.toml")))


@case("cannot read the spec spec.yaml")
def spec_with_yaml_tags(place: Path) -> Any:
    (place / "spec.yaml").write_text('learner: !!python/object/apply:os.system ["touch canary"]')
    return read_spec(Path("spec.yaml"))


@case("cannot read the spec")
def spec_of_deep_nesting(place: Path) -> Any:
    (place / "spec.toml").write_text("a = " + "[" * 100_000)
    return read_spec(Path("spec.toml"))


@case("is no regular file")
def spec_that_is_a_pipe(place: Path) -> Any:
    pipe(place / "spec.toml")
    return read_spec(Path("spec.toml"))


@case("is no regular file")
def spec_that_is_a_device(place: Path) -> Any:
    device(place / "spec.toml")
    return read_spec(Path("spec.toml"))


@case("is a folder")
def spec_that_is_a_folder(place: Path) -> Any:
    return read_spec(Path("run"))


@case("has more than 67,108,864 bytes")
def spec_that_is_giant(place: Path) -> Any:
    giant(place / "spec.toml")
    return read_spec(Path("spec.toml"))


@case("the grid has 1e+20 points")
def grid_that_is_a_bomb(place: Path) -> Any:
    axes = {f"learner.option-{number}": list(range(100)) for number in range(10)}
    (place / "grid.json").write_text(json.dumps({"env": "digits", "grid": axes}))
    return plan(read(["grid.json"]))


# run folders


@case("learner 'evil:Evil' in run/run.json is code to import")
def run_to_resume_that_names_code(place: Path) -> Any:
    change(place / "run" / "run.json", **{"resolved.learner": {"name": "evil:Evil"}})
    return sidetune_core.resume("run")


@case("base 'evil:Evil' in run/run.json is code to import")
def run_to_verify_that_names_code(place: Path) -> Any:
    change(place / "run" / "run.json", **{"resolved.base": {"name": "evil:Evil"}})
    return verify(RunFolder(Path("run")))


@case("evil:Evil")
def runs_to_report_that_name_code(place: Path) -> Any:
    shutil.copytree("run", "other")
    for name, options in (("run", {}), ("other", {"a": 1})):
        learner = {"name": "evil:Evil", "options": options}
        change(Path(name, "run.json"), resolved=json.loads(Path(name, "run.json").read_text())["resolved"])
        change(Path(name, "run.json"), **{"resolved.learner": learner, "composition": "evil:Evil"})
    assert main(["report", "run", "other"]) == 0


@case("no learner named 'evil' in 'x'; touch canary #'")
def run_whose_plugin_has_a_shell_in_its_name(place: Path) -> Any:
    change(place / "run" / "run.json", **{"resolved.learner": {"name": "x'; touch canary #/evil"}})
    change(
        place / "run" / "run.json",
        **{
            "plugins.learner.name": "x'; touch canary #/evil",
            "plugins.learner.distribution": "x'; touch canary #",
            "plugins.learner.class": "evil:Evil",
        },
    )
    return sidetune_core.resume("run")


@case("holds no run")
def run_json_that_is_a_pipe(place: Path) -> Any:
    pipe(place / "run" / "run.json")
    return sidetune_core.resume("run")


@case("has more than 67,108,864 bytes")
def run_json_that_is_giant(place: Path) -> Any:
    giant(place / "run" / "run.json")
    return sidetune_core.resume("run")


@case("holds no run")
def run_json_that_is_a_device(place: Path) -> Any:
    device(place / "run" / "run.json")
    return sidetune_core.resume("run")


@case("is damaged: ValueError('line 7 of eval.jsonl')")
def measurements_that_are_giant(place: Path) -> Any:
    giant(place / "run" / "eval.jsonl")
    assert main(["report", "run"]) == 2


@case("is damaged: R has no row")
def measurements_that_are_a_pipe(place: Path) -> Any:
    pipe(place / "run" / "eval.jsonl")
    assert main(["report", "run"]) == 2


@case(r"t0\x1b[2J")
def titles_that_clear_the_terminal(place: Path) -> Any:
    change(place / "run" / "run.json", composition="t0\x1b[2J\nerror: a\u202e")
    assert main(["report", "run"]) == 0


@case("certificate.json is damaged: invalid value @ $.tasks[0].sketch")
def certificate_of_ten_billion_classes(place: Path) -> Any:
    change(place / "run" / "certificate.json", **{"tasks.0.sketch": sketch(classes=10**10)})
    return verify(RunFolder(Path("run")))


@case("certificate.json is damaged: invalid value @ $.tasks[0].sketch")
def certificate_of_giant_inputs(place: Path) -> Any:
    change(place / "run" / "certificate.json", **{"tasks.0.sketch": sketch(size=10**10)})
    return verify(RunFolder(Path("run")))


def sketch(classes: int = 2, size: int = 8) -> dict[str, Any]:
    return {"title": "x", "inputs": {"image": [3, size, size]}, "classes": classes}


@case("cannot read the run")
def certificate_of_deep_nesting(place: Path) -> Any:
    (place / "run" / "certificate.json").write_text('{"tasks":' * 100_000)
    return verify(RunFolder(Path("run")))


@case("is damaged (Error while deserializing header")
def checkpoint_whose_header_lies(place: Path) -> Any:
    for path in (place / "run" / "checkpoints").glob("*.safetensors"):
        path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    raise SidetuneError("; ".join(verify(RunFolder(Path("run"))).problems))


@case("no regular file")
def checkpoint_that_is_a_pipe(place: Path) -> Any:
    for path in list((place / "run" / "checkpoints").glob("*.json")):
        pipe(path)
    raise SidetuneError("; ".join(verify(RunFolder(Path("run"))).problems))


@case("resumed")
def pictures_that_are_bombs(place: Path) -> Any:
    png(place / "run" / "pictures" / "t0.bomb.png", 60_000, 60_000)
    png(place / "run" / "pictures" / "t0.less.png", 13_000, 13_000)
    sidetune_core.resume("run")
    raise SidetuneError("resumed")


# recordings


def recording(place: Path, **values: Any) -> Path:
    folder = place / "recording"
    folder.mkdir()
    shard = {"sha256": "", "trajectories": 9, "steps": 9, "given_up": 0, "total": 0.0, "successes": 0}
    card = {
        "format": 1,
        "env": {"name": "digits", "options": {}, "seed": 0},
        "task": "t0",
        "title": "x",
        "inputs": {"image": [3, 8, 8]},
        "expert": "bot",
        "about": {},
        "seed": 0,
        "shard": 9,
        "versions": {},
        "trajectories": 9,
        "shards": [shard | {"file": "shards/00000.safetensors"}],
    }
    (folder / "card.json").write_text(json.dumps(card))
    change(folder / "card.json", **values)
    return folder


@case("env 'evil:Evil' in")
def recording_whose_env_is_code(place: Path) -> Any:
    folder = recording(place, **{"env.name": "evil:Evil"})
    return open_demonstrations(folder).open_stream()


@case("is code to import")
def recording_whose_env_names_code(place: Path) -> Any:
    folder = recording(place, **{"env.name": "gym", "env.options": {"ids": ["evil:Env-v0"]}})
    return open_demonstrations(folder).open_stream()


@case("names a shard elsewhere")
def recording_whose_shard_is_a_device(place: Path) -> Any:
    folder = recording(place, **{"shards.0.file": "/dev/zero"})
    return open_demonstrations(folder).read(0, 1)


@case("names a shard elsewhere")
def recording_whose_shard_is_elsewhere(place: Path) -> Any:
    folder = recording(place, **{"shards.0.file": "../../outside.safetensors"})
    return open_demonstrations(folder).read(0, 1)


@case("cannot be read")
def recording_whose_shard_is_a_pipe(place: Path) -> Any:
    folder = recording(place)
    (folder / "shards").mkdir()
    pipe(folder / "shards" / "00000.safetensors")
    return open_demonstrations(folder).read(0, 1)


@case("cannot have the shape")
def recording_of_giant_inputs(place: Path) -> Any:
    return open_demonstrations(recording(place, inputs={"image": [3, 10**10, 8]}))


# archives and images


@case("pickled Python objects")
def archive_of_objects(place: Path) -> Any:
    labels = np.array([Mark(), 1], dtype=object)
    np.savez(place / "x.npz", x_train=labels, y_train=labels, x_test=labels, y_test=labels)
    return env("images", archive=place / "x.npz", image_size=8)


@case("holds pickled Python objects")
def frames_of_objects(place: Path) -> Any:
    np.savez(place / "x.npz", rgb=np.array([Mark()], dtype=object), depth=np.array([Mark()], dtype=object))
    rgbd = importlib.import_module("sidetune_plugins.envs.dense.rgbd_files")
    return rgbd.load_arrays(place / "x.npz", ("rgb", "depth"))


@case("unpacks to")
def frames_that_are_a_bomb(place: Path) -> Any:
    bomb(place / "x.npz", "rgb.npy")
    rgbd = importlib.import_module("sidetune_plugins.envs.dense.rgbd_files")
    return rgbd.load_arrays(place / "x.npz", ("rgb",))


def images(place: Path) -> Path:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (place / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(place / "images" / split / name / "0.png")
    return place / "images"


@case("cannot be read: train/a/1.png")
def image_that_is_a_bomb(place: Path) -> Any:
    png(images(place) / "train" / "a" / "1.png", 60_000, 60_000)
    return env("images", root=(place / "images",), image_size=8)


@case("1 task")
def images_that_are_pipes_and_devices(place: Path) -> Any:
    pipe(images(place) / "train" / "a" / "1.png")
    device(place / "images" / "train" / "a" / "2.png")
    raise SidetuneError(f"{len(env('images', root=(place / 'images',), image_size=8))} task")


@case("1 task")
def images_in_a_circle_of_links(place: Path) -> Any:
    (images(place) / "train" / "a" / "again").symlink_to(place / "images" / "train")
    raise SidetuneError(f"{len(env('images', root=(place / 'images',), image_size=8))} task")


@case("is no file of at most")
def split_table_that_is_a_pipe(place: Path) -> Any:
    pipe(place / "splits.csv")
    return importlib.import_module("sidetune_plugins.envs.dense.taskonomy_files").read_splits(
        place / "splits.csv"
    )


@case("cannot be read as an array")
def vector_whose_header_lies(place: Path) -> Any:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
    (place / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    cache = importlib.import_module("sidetune_plugins.envs.dense.decoded_cache")
    try:
        return cache._read_vector(place / "x.npy", 3)
    except cache.UnusableFile as error:
        raise SidetuneError(str(error)) from error


@case("no file")
def questions_that_are_a_pipe(place: Path) -> Any:
    pipe(place / "squad.json")
    return importlib.import_module("sidetune_plugins.envs.squad.files").read_squad(place / "squad.json")


@case("has more than 1 GiB")
def questions_that_are_giant(place: Path) -> Any:
    giant(place / "squad.json")
    return importlib.import_module("sidetune_plugins.envs.squad.files").read_squad(place / "squad.json")


# weights


class Mark:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, ("canary", "w")


@case("could run code")
def weights_that_run_code(place: Path) -> Any:
    torch.save({"w": Mark()}, place / "w.pth")
    return read_tensors(place / "w.pth")


@case("cannot read weights from")
def weights_of_a_bare_pickle(place: Path) -> Any:
    (place / "w.pth").write_bytes(pickle.dumps({"w": Mark()}, 0)[:-1])
    return read_tensors(place / "w.pth")


@case("unpacks to")
def weights_that_are_a_bomb(place: Path) -> Any:
    bomb(place / "w.pth", "w/data/0")
    return read_tensors(place / "w.pth")


@case("no weights file")
def weights_that_are_a_pipe(place: Path) -> Any:
    pipe(place / "w.safetensors")
    return read_tensors(place / "w.safetensors")


@case("cannot read weights from")
def weights_that_are_giant(place: Path) -> Any:
    giant(place / "w.safetensors")
    return read_tensors(place / "w.safetensors")


# packages and claims


@case("unusable")
def package_whose_component_is_a_function(place: Path) -> Any:
    folder = place / "evil-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\x1b[2J\n")
    (folder / "entry_points.txt").write_text("[sidetune.learners]\nodd\x1b = os:system\nodd = evil:Evil\n")
    sys.path.insert(0, str(place))
    try:
        assert main(["list", "learners"]) == 0
    finally:
        sys.path.remove(str(place))


@case("learner 'evil:Evil' in ledger/evil.toml is code to import")
def claim_that_names_code(place: Path) -> Any:
    claim = 'table = "x"\nmethod = "x"\nseeds = [0]\ntolerance = 0.1\n'
    (place / "ledger").mkdir()
    (place / "ledger" / "evil.toml").write_text(claim + 'command = "sidetune-run --learner evil:Evil"')
    assert main(["reproduce", "evil"]) == 2


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_a_stranger(
    name: str, place: Path, watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    use, words = CASES[name]
    watch.folder, watch.found = place, []
    try:
        answer = str(use(place))
    except SidetuneError as error:
        answer = str(error)
    finally:
        watch.folder = None
    answer += "".join(capfd.readouterr())
    assert words in answer
    assert "\x1b" not in answer
    assert "\u202e" not in answer
    assert not (place / "canary").exists()
    assert watch.found == []
