"""`sidetune play`: episodes of a trained policy."""

from __future__ import annotations

import csv
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, check_outside, print_json
from sidetune_core.config import argv as arguments_of_run
from sidetune_core.config.arguments import split_arguments
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import counted, one_line

if TYPE_CHECKING:
    from sidetune_core.rl import Episode
    from sidetune_core.serving.video import Video

COLUMNS = ("episode", "return", "length", "success")

DEFAULT_SEED = 0
"""Of the run's evaluations."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


def play(
    argv: Positional[tuple[str, ...]],
    task: str | None = None,
    episodes: int | None = None,
    seed: int = DEFAULT_SEED,
    deterministic: Switch = False,
    stochastic: Switch = False,
    max_steps: int | None = None,
    video: Path | None = None,
    format: Literal["text", "json", "csv"] = "text",
    trust_local_code: Switch = False,
) -> int:
    """Play episodes of the policy of a run, and print return, length and success of each and their mean.

    Without options they are the episodes of the run's evaluation, with the same result. Options --env.*
    change those of the run, such as --env.time-limit 200.

    sidetune play runs/cartpole --episodes 5 --video cartpole.gif

    Args:
        argv: the run folder, or an adapter; then options of its env.
        task: id of the task, if there are several.
        episodes: number of episodes; default: that of the run's evaluation.
        seed: of the episodes and of sampled actions; 0 is that of the run's evaluation.
        deterministic: take the most likely actions; default: as the run's evaluation does.
        stochastic: sample actions from the policy.
        max_steps: truncate longer episodes; default: the time limit of the environments, or 10000 steps where
            they have none.
        video: write a .gif or .mp4 file of all episodes; in a folder it has the name of the task.
        format: of what is printed.
        trust_local_code: import code that the run names (module:Class).
    """
    path, options = _split(argv)
    _check(episodes, max_steps, deterministic and stochastic)
    from sidetune_core.serving.episodes import open_player
    from sidetune_core.serving.video import Video, check_video, video_file

    if video is not None:
        check_outside("--video", video, path)
        check_video(video)
    chosen = deterministic if deterministic or stochastic else None
    overrides = partial(_env_options, options) if options else None
    with open_player(path, task, overrides, trust_local_code) as player:
        evaluated, count = player.task.eval_episodes, episodes or player.task.eval_episodes
        is_default = seed == DEFAULT_SEED and not options and max_steps is None
        same = is_default and count == evaluated and chosen in (None, player.task.deterministic_eval)
        about = {"run": str(path), "task": player.id, "title": player.title, "seed": seed}
        report = REPORTS[format](about, same)
        film = None if video is None else Video(video_file(video, player.id))
        played = player.play(count, seed, chosen, max_steps, None if film is None else film.show)
        finished = _play(played, report, film)
    if film is not None and report.rows:
        print(f"video {one_line(film.path)}", file=sys.stderr)
    return 0 if finished else INTERRUPTED


def _play(played: Iterator[Episode], report: Report, film: Video | None) -> bool:
    """Play, and report what was played; returns whether all was."""
    finished = True
    try:
        for episode in played:
            report.add(episode)
    except KeyboardInterrupt:
        finished = False
        print("\nInterrupted.", file=sys.stderr)
    finally:
        played.close()  # type: ignore[attr-defined]  # a generator, which closes the environments
        if film is not None:
            film.close()
    report.end()
    return finished


def _split(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The run folder and the options of its env."""
    if not argv:
        raise OptionError("no run given: sidetune play RUN")
    if argv[0].startswith("-"):
        raise OptionError(f"name the run folder first: sidetune play RUN {argv[0]} …")
    for argument in split_arguments(argv[1:]):
        if not argument.typed.startswith("--env."):
            word = argument.typed or argument.values[0]
            raise OptionError(f"sidetune play takes a run folder and options --env.*, not {word}")
    return Path(argv[0]), [*argv[1:]]


def _env_options(options: Sequence[str], env: str) -> Mapping[str, Any]:
    """The values of options ``--env.*`` of an env."""
    typed = arguments_of_run.parse(["--env", env, *options]).spec.env
    return {} if typed is None else typed.options


def _check(episodes: int | None, max_steps: int | None, both: bool) -> None:
    if episodes is not None and episodes < 1:
        raise OptionError(f"--episodes {episodes}: play at least one")
    if max_steps is not None and max_steps < 1:
        raise OptionError(f"--max-steps {max_steps}: an episode has at least one step")
    if both:
        raise OptionError("--deterministic and --stochastic exclude each other")


class Report(ABC):
    """What is printed of episodes.

    Args:
        about: what is played, in plain values.
        same: whether these are the episodes of the run's evaluation.
    """

    def __init__(self, about: Mapping[str, Any], same: bool) -> None:
        self.about, self.same = {**about, "evaluation": same}, same
        self.rows: list[dict[str, Any]] = []
        self._episodes: list[Episode] = []

    def add(self, episode: Episode) -> None:
        """An episode has ended."""
        self._episodes.append(episode)
        row = {
            "episode": len(self._episodes),
            "return": episode.total_reward,
            "length": episode.length,
            "success": episode.success,
            **episode.metrics,
        }
        self.rows.append(row)
        self.show(row)

    def show(self, row: Mapping[str, Any]) -> None:  # noqa: B027 - most formats are printed at the end
        """Print a row at once."""

    @abstractmethod
    def end(self) -> None:
        """No further episode follows."""

    def mean(self) -> dict[str, float]:
        """Of each column over all episodes, in the order of the columns; empty if there are none."""
        from sidetune_core.rl.episode_stats import means

        found = means(self._episodes) if self._episodes else {}
        first = {name: found[name] for name in COLUMNS if name in found}
        return first | {name: value for name, value in found.items() if name not in first}


class Text(Report):
    """A line for each episode as it ends, then the mean."""

    def show(self, row: Mapping[str, Any]) -> None:
        if len(self.rows) == 1:
            print(one_line(f"{self.about['task']}: {self.about['title']}"))
            print("".join(f"{name:>12}" for name in row))
        print("".join(f"{_text(value):>12}" for value in row.values()), flush=True)

    def end(self) -> None:
        if not self.rows:
            print("no episode has ended")
            return
        mean = self.mean()
        cells = ["mean", *(f"{mean[name]:.3f}" if name in mean else "" for name in [*self.rows[-1]][1:])]
        print("".join(f"{cell:>12}" for cell in cells))
        note = ", those of the run's evaluation" if self.same else ""
        print(f"{counted(len(self.rows), 'episode')}{note}")


class JSON(Report):
    """One object."""

    def end(self) -> None:
        print_json({**self.about, "episodes": self.rows, "mean": self.mean()})


class CSV(Report):
    """A row for each episode; the last one, ``mean``, has the means."""

    def end(self) -> None:
        columns = [*COLUMNS, *(name for name in (self.rows or [{}])[0] if name not in COLUMNS)]
        writer = csv.DictWriter(sys.stdout, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "success": int(row["success"])} for row in self.rows)
        if self.rows:
            writer.writerow({"episode": "mean", **self.mean()})


REPORTS: Mapping[str, type[Report]] = {"text": Text, "json": JSON, "csv": CSV}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
