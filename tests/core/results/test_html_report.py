"""The report as one HTML file: read by a parser, and looked at in a browser when it changes."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest

from sidetune_core.config.spec import RunSpec
from sidetune_core.results.html_charts import Line, line_chart
from sidetune_core.results.html_report import html_report
from sidetune_core.results.metrics import Results
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.results.task_labels import task_labels
from sidetune_core.storage.run_files import IMAGES

EVIL = '<script>alert(1)</script>&"\x1b[2J'
RESULTS = Results(
    ("t0", "t1"), ((0.75, None), (0.5, 1.0)), initial=(0.25, 0.125), metric="accuracy", higher_is_better=True
)


def summary_of(name: str, folder: Path, results: Results = RESULTS, seed: int = 0) -> RunSummary:
    return RunSummary(
        name=name,
        spec=RunSpec(learner=name, env="digits", seed=seed),
        spec_line=f"digits · {name}",
        results=results,
        changed=(),
        parameters={"all": 100, "trainable per task": 10},
        seconds=3.0,
        status="done",
        folder=str(folder),
        titles=("cats, dogs", "birds, fish")[: len(results.tasks)],
    )


class Page(HTMLParser):
    """The elements of a page; fails where one is not closed in its turn."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_the_page_of_a_run_has_r_its_titles_and_its_values(tmp_path: Path) -> None:
    page = Page(html_report([summary_of("ewc", tmp_path)]))
    text = " ".join(page.text)
    for words in ("75.0 %", "cats, dogs", "after birds, fish", "forgetting", "25.0 %", "100.0", "12.5"):
        assert words in text
    assert page.count("rect") == 5  # measured cells: two untrained, one, two
    assert page.count("polyline") == 3


def test_the_page_forbids_requests_and_names_no_other_file(tmp_path: Path) -> None:
    text = html_report([summary_of("ewc", tmp_path), summary_of("lwf", tmp_path / "b")])
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        assert all(name not in attributes for name in ("href", "srcset", "onclick"))
        assert attributes.get("src") is None


def test_names_of_others_are_escaped(tmp_path: Path) -> None:
    evil = attrs.evolve(
        summary_of("ewc", tmp_path),
        name=EVIL,
        spec_line=EVIL,
        titles=(EVIL, "x"),
        classes=(EVIL,),
        status=EVIL,
        left_out=(EVIL,),
    )
    for text in (html_report([evil]), html_report([evil, summary_of("lwf", tmp_path)])):
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert Page(text).count("script") == 1


def test_a_comparison_of_thirty_runs_has_a_line_each_and_one_for_each_method(tmp_path: Path) -> None:
    runs = [
        summary_of(name, tmp_path / f"{name}{seed}", seed=seed)
        for name in [f"m{index}" for index in range(10)]
        for seed in range(3)
    ]
    page = Page(html_report(runs))
    assert page.count("details") == 2 * 30 + 30  # the run, and its metrics and options
    sortable = [attributes for tag, attributes in page.tags if attributes.get("class") == "sortable"]
    assert len(sortable) == 2
    assert page.count("polyline") == 10


def test_runs_of_different_tasks_have_no_common_curve(tmp_path: Path) -> None:
    other = attrs.evolve(RESULTS, tasks=("a", "b"))
    runs = [summary_of("ewc", tmp_path), summary_of("lwf", tmp_path / "b", other)]
    assert Page(html_report(runs)).count("polyline") == 0


def test_runs_of_several_scenarios_have_tables_and_charts_of_their_own(tmp_path: Path) -> None:
    runs = [summary_of("ewc", tmp_path, seed=seed) for seed in (0, 1)]
    runs += [attrs.evolve(run, spec=attrs.evolve(run.spec, scenario="class")) for run in runs]
    text = html_report(runs)
    titles = re.findall(r"<h2>([^<]*)</h2>", text.partition("<details")[0])
    names = ("Methods", "Runs", "Metric over the stream")
    assert titles == [f"{name}, {scenario}-incremental" for scenario in ("task", "class") for name in names]
    assert Page(text).count("polyline") == 2


def test_images_of_tasks_are_in_the_file(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00\x7f")) + chunk(b"IEND", b"")
    (tmp_path / IMAGES).mkdir()
    (tmp_path / IMAGES / "t0.input.png").write_bytes(png)
    page = Page(html_report([summary_of("ewc", tmp_path)]))
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert str(image["src"]).startswith("data:image/png;base64,iVBOR")


def test_the_points_of_a_chart_lie_in_proportion() -> None:
    chart = line_chart([Line("a", [(1, 0.0), (2, 5.0), (3, 10.0)])], "x", "y", whole=True)
    match = re.search(r'points="([^"]+)"', chart)
    assert match is not None
    (x1, y1), (x2, y2), (x3, y3) = (map(float, pair.split(",")) for pair in match[1].split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y3 < y1


def test_labels_are_titles_that_stay_distinct() -> None:
    assert task_labels(["t0", "t1"], ["cats, dogs", "birds"]) == ["cats, dogs", "birds"]
    assert task_labels(["t0", "t1"], ["a very long title of one", "b very long"]) == [
        "a very long t…",
        "b very long",
    ]
    assert task_labels(["t0", "t1"], ["the same start, 1", "the same start, 2"]) == ["t0", "t1"]
    assert task_labels(["t0", "t1"], []) == ["t0", "t1"]
