"""`sidetune predict`: predictions of trained tasks for files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, check_outside
from sidetune_core.errors import InputError, OptionError
from sidetune_core.io.files import is_same
from sidetune_core.io.printable import counted, indented, one_line, unescaped
from sidetune_core.storage.run_folder import open_run

if TYPE_CHECKING:
    from sidetune_core.serving.model import Model

HUB = "hf://"
"""The prefix of adapters on the Hugging Face Hub."""


def predict(
    argv: Positional[tuple[str, ...]],
    task: str | None = None,
    tasks: str | None = None,
    format: Literal["text", "csv", "json"] = "text",
    out: Path | None = None,
    top: int = 1,
    batch_size: int = 64,
    on_error: Literal["continue", "stop"] = "continue",
    device: str | None = None,
    trust_local_code: Switch = False,
) -> int:
    """Predict files with the tasks of trained runs and adapters, without their data.

    sidetune predict runs/x --task t0 photo.jpg photos

    Prints a line for each file and task. Folders are searched for files of the kind that the task reads, such
    as images; hidden files are skipped. A file that cannot be read is named on standard error, the others go
    through, and the exit status is 1.

    Args:
        argv: run folders and adapters, then files and folders.
        task: id of the task; needed if there are several.
        tasks: 'all', or ids with commas between them; the base runs once for all of them.
        format: json has a line of JSON for each file and task.
        out: write to this file instead, outside of the runs and adapters; for questions, a .json file in
            SQuAD's official format; for maps, a folder of .npy arrays and .png images.
        top: number of classes to print, the most probable first.
        batch_size: most files at once; fewer need less memory.
        on_error: what to do with a file that cannot be read.
        device: such as 'cpu'; default: that of the run.
        trust_local_code: import code that a run names (module:Class).
    """
    sources, files = _split(argv)
    if top < 1 or batch_size < 1:
        raise OptionError(f"--{'top' if top < 1 else 'batch-size'} must be at least 1")
    if out is not None:
        _check_out(out, sources, files)
    from sidetune_core.cli.prediction_output import Output
    from sidetune_core.serving.files import Predicted, predict_files

    model = _load(sources, device, trust_local_code)
    chosen = _choose(model, task, tasks)
    output = Output(format, out, top, chosen, model.handler(chosen[0]))
    failed = 0
    with output, _progress(out is None) as progress:
        for result in predict_files(model, chosen, files, batch_size, _notice):
            if isinstance(result, Predicted):
                output.write(result)
            elif on_error == "stop":
                raise InputError(str(result))
            else:
                failed += 1
                print(f"failed: {indented(result)}", file=sys.stderr)
            progress.update()
    if failed:
        print(f"{counted(failed, 'file')} failed", file=sys.stderr)
    return 1 if failed else 0


def _split(paths: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Runs and adapters, which come first, and files."""
    if unknown := [path for path in paths if path.startswith("--")]:
        raise OptionError(f"sidetune predict has no option '{unknown[0]}'. See sidetune predict --help")
    if not paths:
        raise OptionError("no run given: sidetune predict RUN FILES")
    if not _is_source(paths[0]):
        open_run(Path(paths[0]))  # says what it is not
    count = next((index for index, path in enumerate(paths) if index and not _is_source(path)), len(paths))
    if count == len(paths):
        raise OptionError(f"no files given: sidetune predict {' '.join(paths)} FILES")
    return list(paths[:count]), list(map(Path, paths[count:]))


def _check_out(out: Path, sources: Sequence[str], files: Sequence[Path]) -> None:
    """Check that predictions overwrite nothing that is read.

    Raises:
        OptionError: `out` is one of the files, or in the folder of a run or an adapter.
    """
    if any(is_same(out, path) for path in files):
        raise OptionError(f"--out {out} is one of the files to predict")
    for source in sources:
        if not source.startswith(HUB):
            check_outside("--out", out, Path(source))


def _load(sources: Sequence[str], device: str | None, trust_local_code: bool) -> Model:
    """The tasks of runs and adapters.

    Raises:
        OptionError: two have a task of the same id.
    """
    from sidetune_core.serving.model import Model, TaskExists

    model = Model(device, trust_local_code)
    for source in sources:
        try:
            model.add(source)
        except TaskExists as error:
            raise OptionError(
                f"{source} has a task '{error.task}', and so has a run or adapter before it; predict with "
                f"one of them at a time: sidetune predict {source} --task {error.task} FILES"
            ) from error
    return model


def _is_source(path: str) -> bool:
    return path.startswith(HUB) or any((Path(path) / name).is_file() for name in ("run.json", "task.json"))


def _choose(model: Model, task: str | None, tasks: str | None) -> list[str]:
    """Ids of the tasks that predict."""
    from sidetune_core.serving.model import ANY

    listed = "\n".join(f"{name}  {card.title}" for name, card in model.cards.items())
    if task is not None and tasks is not None:
        raise OptionError("give either --task or --tasks")
    if tasks == "all":
        return list(model.tasks)
    chosen = [task] if task is not None else tasks.split(",") if tasks is not None else list(model.tasks)
    if task is None and tasks is None and model.predicts_without_task_id:
        return [ANY]
    if task is None and tasks is None and len(chosen) > 1:
        raise OptionError(f"there are {len(chosen)} tasks; choose with --task ID or --tasks all:\n{listed}")
    if unknown := [name for name in chosen if name not in model.tasks]:
        raise OptionError(f"there is no task '{unknown[0]}'; there are:\n{listed}")
    return list(dict.fromkeys(chosen))


def _notice(text: str) -> None:
    print(one_line(text), file=sys.stderr)


def _progress(prints: bool) -> Any:
    """A bar on standard error, unless the predictions are printed on the same terminal."""
    from tqdm import tqdm

    stream = unescaped(sys.stderr)
    disable = not stream.isatty() or (prints and sys.stdout.isatty())
    return tqdm(file=stream, unit=" examples", leave=False, disable=disable)
