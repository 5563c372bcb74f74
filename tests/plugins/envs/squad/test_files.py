"""Files of questions as they occur: layouts, faults, and answers that are not at their offset."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from sidetune_core.api import DataError

FILES = importlib.import_module("sidetune_plugins.envs.squad.files")
CONTEXT = "The river Rhine ends in the Netherlands. Its source is in Graubünden."


def question(id: Any = "a", text: str = "Where does it end?", **values: Any) -> dict[str, Any]:
    answers = [{"text": "Netherlands", "answer_start": 28}]
    return {"id": id, "question": text, "answers": answers, **values}


def write(path: Path, *questions: dict[str, Any], context: str = CONTEXT) -> Path:
    paragraphs = [{"context": context, "qas": list(questions)}]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Rhine", "paragraphs": paragraphs}]}))
    return path


def row(id: Any, answers: Any, **values: Any) -> dict[str, Any]:
    return {
        "id": id,
        "title": "Rhine",
        "context": CONTEXT,
        "question": "Where?",
        "answers": answers,
        **values,
    }


ROWS = [
    row("a", {"text": ["Netherlands", "the Netherlands"], "answer_start": [28, 24]}),
    row("b", {"text": [], "answer_start": []}),
    row("c", {"text": ["Graubünden"], "answer_start": [58]}),
]


def read(path: Path, **options: Any) -> dict[str, Any]:
    """The questions by id."""
    articles = FILES.read_squad(path, **options)
    return {
        question.id: question
        for article in articles
        for paragraph in article.paragraphs
        for question in paragraph.questions
    }


@pytest.mark.parametrize("layout", ["list", "data", "lines", "lines as .json", "parquet", "folder"])
def test_rows_of_the_hugging_face_layout_are_an_article(layout: str, tmp_path: Path) -> None:
    path = tmp_path / {"lines": "rows.jsonl", "parquet": "rows.parquet", "folder": "rows"}.get(
        layout, "rows.json"
    )
    if layout == "folder":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    elif layout == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif layout.startswith("lines"):
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    else:
        path.write_text(json.dumps(ROWS if layout == "list" else {"data": ROWS}))
    (article,) = FILES.read_squad(path)
    assert article.title == "Rhine"
    (paragraph,) = article.paragraphs
    assert paragraph.context == CONTEXT
    answers = [[(answer.text, answer.start) for answer in asked.answers] for asked in paragraph.questions]
    assert answers == [[("Netherlands", 28), ("the Netherlands", 24)], [], [("Graubünden", 58)]]


def test_splits_of_a_data_set_are_named(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"has the splits train, validation; pass one of them: .*set/train"):
        FILES.read_squad(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder without a data set"):
        FILES.read_squad(tmp_path / "empty")


@pytest.mark.parametrize(
    "values",
    [
        {"id": 7},
        {"is_impossible": 0},
        {"answers": [{"text": "Netherlands", "answer_start": 28.0}]},
    ],
)
def test_values_as_other_programs_write_them_are_read(values: dict[str, Any], tmp_path: Path) -> None:
    (asked,) = read(write(tmp_path / "a.json", question(**values))).values()
    assert asked.id == str(values.get("id", "a"))
    assert [(answer.text, answer.start) for answer in asked.answers] == [("Netherlands", 28)]


def test_an_impossible_question_needs_no_answers(tmp_path: Path) -> None:
    impossible = {"id": "b", "question": "Who?", "is_impossible": 1}
    assert read(write(tmp_path / "a.json", question(), impossible))["b"].answers == ()


@pytest.mark.parametrize("start", [27, 29, 20, 40])
def test_an_answer_near_its_offset_is_moved_there(start: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", question(answers=[{"text": "Netherlands", "answer_start": start}]))
    with pytest.warns(UserWarning, match=f"1 of 1 answers .*question a: 'Netherlands' from {start} to 28"):
        assert read(path)["a"].answers[0].start == 28


def test_an_answer_between_two_equally_near_places_is_a_fault(tmp_path: Path) -> None:
    answers = [{"text": "Rhine", "answer_start": 5}]
    path = write(tmp_path / "a.json", question(answers=answers), context="Rhine and Rhine.")
    with pytest.raises(DataError, match="the answer 'Rhine' does not match"):
        read(path)


FAULTY = (
    question("far", answers=[{"text": "Graubünden", "answer_start": 3}]),
    question("empty", answers=[{"text": "", "answer_start": 3}]),
    question("none", answers=[]),
    question("both", is_impossible=True),
    question("text", is_impossible="false"),
    question("good"),
    question("good"),
)


def test_faulty_questions_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", *FAULTY)
    with pytest.raises(
        DataError, match=r"6 faults: .*; and 3 more\. Correct .* --env\.on-error skip"
    ) as error:
        read(path)
    assert "'none' has no answers, but is_impossible is not set" in str(error.value)
    with pytest.warns(UserWarning, match="left out what is faulty .6 faults"):
        assert [*read(path, on_error="skip")] == ["good"]


def test_a_file_without_answers_is_for_prediction(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"id": 1, "question": "Where?"}, {"id": 2, "question": "Who?"})
    with pytest.raises(DataError, match="none of its 2 questions has 'answers'.* sidetune predict RUN"):
        read(path)
    assert [asked.id for asked, _ in FILES.read_questions(path)] == ["1", "2"]
    path.write_text(json.dumps([{"context": CONTEXT, "question": "Where?"}] * 2))
    assert [asked.id for asked, _ in FILES.read_questions(path)] == ["0", "1"]


def test_another_encoding_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps({"data": ROWS}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 .*iconv -f LATIN1 -t UTF-8"):
        read(path)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{\n")
    with pytest.raises(DataError, match="as JSON lines: line 2"):
        read(path)


@pytest.mark.parametrize(
    ("reference", "predicted", "expected"),
    [
        ("東京都の新宿区", "新宿区", 2 * 1 * (3 / 7) / (1 + 3 / 7)),
        ("서울 특별시", "서울", 4 / 7),
        ("in 1966年", "1966年", 0.8),
    ],
)
def test_characters_of_languages_without_blanks_are_words_of_a_second_f1(
    reference: str, predicted: str, expected: float
) -> None:
    scoring = importlib.import_module("sidetune_plugins.envs.squad.scoring")
    records = importlib.import_module("sidetune_plugins.envs.squad.records")
    asked = records.Question("a", "どこ?", (records.Answer(reference, 0),))
    metrics = scoring.squad_metrics([asked], {"a": predicted}, {})
    assert metrics["character-f1"] == pytest.approx(expected)
    assert metrics["f1"] == scoring.score_prediction(asked, predicted).f1
    english = records.Question("b", "Where?", (records.Answer("新宿", 0),))
    assert "character-f1" not in scoring.squad_metrics([asked, english], {"a": "", "b": ""}, {})
