"""A run, its spec, or an extension meets data that are others than before: messages say what changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sidetune_plugins.envs.images.env import Images

import sidetune_core
from sidetune_core.cli.main import main, main_run
from sidetune_core.errors import RunError

TINY = Path(__file__).parent / "kills"
CLASSES = ("bird", "cat", "dog", "emu")
Capture = pytest.CaptureFixture[str]


def write_image(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)


def write_class(root: Path, name: str, grey: int = 10) -> None:
    """Four images to train on and two to test on."""
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            write_image(root / split / name / f"{number}.png", grey + number)


def remove_class(root: Path, name: str) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / name)


def spec(**options: Any) -> sidetune_core.RunSpec:
    return sidetune_core.RunSpec(
        base="tiny:TinyBase",
        side="tiny:TinySide",
        merger="alpha",
        learner="sidetune",
        env={"name": "images", "root": "photos", "image_size": 8, "classes_per_task": 2, **options},
        train={"steps": 2, "batch_size": 2},
        device={"name": "cpu", "precision": "fp32"},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of two tasks of two classes, next to its photos."""
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(CLASSES):
        write_class(folder / "photos", name, 60 * number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(TINY))
        sidetune_core.run(spec(), folder / "run")
        yield folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the current folder with its photos."""
    shutil.copytree(whole, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(TINY))
    return Path("run")


@pytest.fixture
def run(finished: Path) -> Path:
    """The same, killed in its second task."""
    for path in (finished / "checkpoints").glob("after-002.*"):
        path.unlink()
    (finished / "status").write_text("running\n")
    return finished


def resume(folder: Path, *options: str) -> int:
    return main_run(["--resume", str(folder), "--quiet", "--trust-local-code", *options])


def records(folder: Path) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = json.loads((folder / "data.json").read_text())["records"]
    return values


def test_a_run_records_the_parts_of_its_data(whole: Path) -> None:
    (record,) = records(whole / "run")
    assert record["env"] == "env 'images'"
    assert record["fingerprint"] == json.loads((whole / "run" / "run.json").read_text())["data"]
    assert {name: count for name, (count, _) in record["parts"].items()} == {
        f"{split}/{name}": count for split, count in (("train", 4), ("test", 2)) for name in CLASSES
    }
    assert len({digest for _, digest in record["parts"].values()}) == 8


def more(root: Path) -> None:
    write_image(root / "train" / "cat" / "more.png", 9)
    write_image(root / "test" / "emu" / "0.png", 9)


def test_a_refused_resume_names_the_parts_that_changed(run: Path, capsys: Capture) -> None:
    more(Path("photos"))
    assert resume(run) == 2
    assert capsys.readouterr().err == (
        "error: run was made with other data: train/cat 4 → 5 examples, test/emu: other content: "
        "restore it, or resume it with the changed data: sidetune-run --resume run --trust-local-code "
        "--allow-changed-data\n"
    )


def test_a_moved_folder_of_the_same_content_is_the_same_data(run: Path) -> None:
    Path("photos").rename("moved")
    about = json.loads((run / "run.json").read_text())
    about["resolved"]["env"]["options"]["root"] = ["moved"]
    (run / "run.json").write_text(json.dumps(about))
    assert resume(run, "--allow-changed", "spec") == 0
    (segment,) = json.loads((run / "run.json").read_text())["segments"]
    assert segment["accepted"] == ["spec env.root ['photos'] → ['moved']"]


def test_a_resume_with_changed_data_says_what_changed_and_records_it(run: Path, capsys: Capture) -> None:
    more(Path("photos"))
    sidetune_core.resume(run, allow_changed_data=True, trust_local_code=True)
    line = "the data of env 'images': train/cat 4 → 5 examples, test/emu: other content"
    assert f"from task t1 on: {line}" in capsys.readouterr().err
    assert [record["parts"]["train/cat"][0] for record in records(run)] == [4, 5]
    assert main(["report", str(run)]) == 0
    assert f"changed: from task t1 on, {line}" in capsys.readouterr().out
    assert main(["verify", str(run), "--trust-local-code"]) == 0


def test_a_later_change_is_compared_with_the_data_that_were_accepted(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    more(Path("photos"))
    resume(run, "--allow-changed-data")
    (run / "status").write_text("running\n")
    for path in (run / "checkpoints").glob("after-002.*"):
        path.unlink()
    write_image(Path("photos/train/cat/again.png"), 8)
    assert resume(run) == 2
    assert "train/cat 4 → 6 examples, test/emu: other content: restore" in capsys.readouterr().err


def test_a_resumed_run_that_has_no_record_gets_one(run: Path, whole: Path) -> None:
    (run / "data.json").unlink()
    assert resume(run) == 0
    assert (run / "data.json").read_bytes() == (whole / "run" / "data.json").read_bytes()


def test_a_finished_run_without_a_record_is_left_as_it_is(finished: Path) -> None:
    (finished / "data.json").unlink()
    assert resume(finished) == 0
    assert not (finished / "data.json").exists()


def test_a_damaged_record_does_not_stop_a_run(run: Path, capsys: Capture) -> None:
    (run / "data.json").write_text('{"records": [{"parts": 3}]}')
    more(Path("photos"))
    assert resume(run) == 2
    assert "made with other data, the data of env 'images': restore it" in capsys.readouterr().err
    assert resume(run, "--allow-changed-data") == 0


def test_a_task_that_came_is_named_with_the_command_that_adds_it(run: Path, capsys: Capture) -> None:
    write_class(Path("photos"), "yak")
    write_class(Path("photos"), "zebra")
    assert resume(run, "--allow-changed-data") == 2
    message = capsys.readouterr().err
    assert (
        "env 'images' now also has task t2 that run was not started with: take the data of t2 away" in message
    )
    command = message[message.index("sidetune-run --extend") :].split()
    assert command == [
        *("sidetune-run", "--extend", "run", "--env", "sidetune/images", "--env.root", "photos"),
        *("--env.image-size", "8", "--env.classes-per-task", "2", "--tasks", "t2"),
    ]
    for name in ("yak", "zebra"):
        remove_class(Path("photos"), name)
    assert resume(run) == 0
    write_class(Path("photos"), "yak")
    write_class(Path("photos"), "zebra")
    assert main_run([*command[1:], "--trust-local-code", "--quiet"]) == 0


def test_a_task_that_went_is_named(run: Path, capsys: Capture) -> None:
    for name in CLASSES[2:]:
        remove_class(Path("photos"), name)
    assert resume(run, "--allow-changed-data") == 2
    assert (
        "env 'images' no longer has task t1 that run was started with; it has t0" in capsys.readouterr().err
    )


@pytest.fixture
def one_task(finished: Path) -> Path:
    """A run of one task of four classes, killed before it has finished."""
    sidetune_core.run(spec(classes_per_task=None), "one")
    for path in Path("one/checkpoints").glob("after-*"):
        path.unlink()
    Path("one/status").write_text("running\n")
    return Path("one")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: write_class(root, "yak"), "task t0 had 4 outputs and has 5 (yak is new)"),
        (lambda root: remove_class(root, "cat"), "task t0 had 4 outputs and has 3 (cat is gone)"),
    ],
    ids=["added", "removed"],
)
def test_a_class_that_came_or_went_is_refused_whatever_is_accepted(
    change: Callable[[Path], None], words: str, one_task: Path, capsys: Capture
) -> None:
    change(Path("photos"))
    assert resume(one_task, "--allow-changed-data") == 2
    message = capsys.readouterr().err
    assert f"the heads of one do not fit its data any more: {words}. Restore the data, or start" in message


def test_classes_in_another_order_are_refused_whatever_is_accepted(one_task: Path, capsys: Capture) -> None:
    remove_class(Path("photos"), "bird")
    write_class(Path("photos"), "yak")
    assert resume(one_task, "--allow-changed-data") == 2
    assert "classes of task t0 are in another order, such as cat, dog, emu" in capsys.readouterr().err


def test_a_new_run_of_the_spec_says_that_its_data_are_others(finished: Path, capsys: Capture) -> None:
    more(Path("photos"))
    argv = ["--spec", "run/run.json", "--out", "second", "--quiet", "--trust-local-code"]
    assert main_run(argv) == 0
    line = "other data than the run of the spec: train/cat 4 → 5 examples, test/emu: other content"
    assert line in capsys.readouterr().err
    assert json.loads(Path("second/run.json").read_text())["spec_changes"] == [line]
    assert main(["report", "run", "second"]) == 0
    assert "data differs: run / second" in capsys.readouterr().out


def test_a_new_run_of_the_spec_on_the_same_data_says_nothing(finished: Path, capsys: Capture) -> None:
    argv = ["--spec", "run/run.json", "--out", "second", "--quiet", "--trust-local-code"]
    assert main_run(argv) == 0
    assert capsys.readouterr().err == ""


def test_other_data_that_the_user_chooses_are_no_change_of_the_spec(finished: Path, capsys: Capture) -> None:
    shutil.copytree("photos", "others")
    more(Path("others"))
    argv = [
        "--spec",
        "run/run.json",
        "--env.root",
        "others",
        "--out",
        "second",
        "--quiet",
        "--trust-local-code",
    ]
    assert main_run(argv) == 0
    assert "other data" not in capsys.readouterr().err


def test_an_edited_record_is_named_by_verify(finished: Path, capsys: Capture) -> None:
    (finished / "data.json").write_text(
        (finished / "data.json").read_text().replace('"train/cat', '"train/cow')
    )
    assert main(["verify", str(finished), "--trust-local-code"]) != 0
    assert "the record of the data, data.json, is changed or missing" in capsys.readouterr().out


def test_an_extension_whose_earlier_data_are_needed_names_what_changed(finished: Path) -> None:
    more(Path("photos"))
    write_class(Path("others"), "yak")
    write_class(Path("others"), "zebra")
    changes = r"made with other data: train/cat 4 → 5 examples, test/emu: other content: restore it"
    for path in finished.glob("tasks/*.json"):  # as in runs of earlier versions: all data are read
        path.unlink()
    env = {"name": "images", "root": "others", "image_size": 8}
    with pytest.raises(RunError, match=changes):
        sidetune_core.extend(finished, env, out="more", trust_local_code=True)
    extended = sidetune_core.extend(finished, env, out="more", trust_local_code=True, allow_changed_data=True)
    assert [task.id for task in extended.tasks] == ["t0", "t1", "t2"]
    assert [record["extension"] for record in records(Path("more"))] == [0, 0, 1]


def test_an_extension_on_the_folder_of_earlier_tasks_says_what_changed_there(
    finished: Path, capsys: Capture
) -> None:
    more(Path("photos"))
    for name in ("yak", "zebra"):
        write_class(Path("photos"), name)
    env = {"name": "images", "root": "photos", "image_size": 8, "classes_per_task": 2}
    sidetune_core.extend(finished, env, tasks=["t2"], trust_local_code=True)
    assert (
        "the data of earlier tasks have changed since they were trained: train/cat 4 → 5 examples, "
        "test/emu: other content; these tasks are not trained again"
    ) in capsys.readouterr().err
    first, second = records(finished)
    assert (first["extension"], second["extension"]) == (0, 1)
    assert second["parts"].keys() - first["parts"].keys() == {
        f"{split}/{name}" for split in ("train", "test") for name in ("yak", "zebra")
    }
    assert main(["verify", str(finished), "--trust-local-code"]) == 0


def test_an_evaluation_names_what_of_the_data_changed(finished: Path, capsys: Capture) -> None:
    more(Path("photos"))
    assert main(["evaluate", "run", "--trust-local-code"]) == 0
    notes = capsys.readouterr().out.splitlines()[-2:]
    assert notes[0].endswith("the data are not those of the run (by their fingerprints)")
    assert notes[1] == "not as in the run: train/cat 4 → 5 examples, test/emu: other content"
    assert main(["evaluate", "run", "--trust-local-code", "--task", "t0", "--format", "json"]) == 0
    (values,) = json.loads(capsys.readouterr().out)
    assert values["data_changes"] == ["train/cat 4 → 5 examples", "test/emu: other content"]


def test_a_customer_whose_images_changed_is_named_and_a_new_one_can_be_added(
    finished: Path, capsys: Capture
) -> None:
    for customer in ("acme", "bravo", "carol"):
        for number, name in enumerate(("cat", "dog")):
            for image in range(5):
                write_image(Path("customers", customer, name, f"{image}.png"), 40 * number + image)
    Path("customers/carol").rename("carol")
    sidetune_core.run(spec(root="customers", classes_per_task=None), "many")
    for path in Path("many/checkpoints").glob("after-002.*"):
        path.unlink()
    Path("many/status").write_text("running\n")
    write_image(Path("customers/acme/cat/more.png"), 9)
    assert resume(Path("many")) == 2
    message = capsys.readouterr().err
    assert "many was made with other data: acme/train/cat 4 → 5 examples, " in message
    assert "bravo" not in message
    Path("carol").rename("customers/carol")
    assert resume(Path("many"), "--allow-changed-data") == 2
    message = capsys.readouterr().err
    assert "env 'images' now also has task carol that many was not started with" in message
    assert "--extend many --env sidetune/images --env.root customers --env.image-size 8" in message


def test_seeds_that_hold_out_other_images_have_the_same_content(finished: Path) -> None:
    streams = [Images(Images.Config(root=(Path("photos"),), val_fraction=0.5), seed) for seed in (0, 1)]
    for stream in streams:
        stream.tasks()
    first, second = streams
    assert first.data_fingerprint() != second.data_fingerprint()
    assert first.content_fingerprint() == second.content_fingerprint()
    more(Path("photos"))
    changed = Images(Images.Config(root=(Path("photos"),), val_fraction=0.5), 0)
    changed.tasks()
    assert changed.content_fingerprint() != first.content_fingerprint()
