"""Whatever a file of questions holds, `read_squad` answers."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.errors import DataError

FILES = importlib.import_module("sidetune_plugins.envs.squad.files")
RAW = importlib.import_module("sidetune_plugins.envs.squad.raw_files")
CONTEXT = "Harold fought in the year 1066 near the sea."
GOOD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Harold",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "a",
                            "question": "When?",
                            "answers": [{"text": "1066", "answer_start": 26}],
                            "is_impossible": False,
                        },
                        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def holds(articles: Any) -> None:
    """See that what was read is what the env relies on."""
    assert articles
    for article in articles:
        assert any(paragraph.questions for paragraph in article.paragraphs)
        for paragraph in article.paragraphs:
            assert paragraph.context.strip()
            for question in paragraph.questions:
                assert question.text.strip()
                for answer in question.answers:
                    assert paragraph.context[answer.start :].startswith(answer.text)
                    assert answer.text


@given(data=st.data())
def test_spoilt_values(data: st.DataObject, tmp_path: Path, spoil_values: Any, answer: Any) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(data.draw(spoil_values(GOOD))), encoding="utf-8")
    articles = answer(lambda: FILES.read_squad(path))
    if articles is not None:
        holds(articles)


@given(data=st.data())
def test_anything_that_json_can_hold(data: st.DataObject, tmp_path: Path, plain: Any, answer: Any) -> None:
    path = tmp_path / "squad.json"
    path.write_text(
        json.dumps(data.draw(plain | st.fixed_dictionaries({"data": st.lists(plain)}))), encoding="utf-8"
    )
    answer(lambda: FILES.read_squad(path))


@pytest.mark.parametrize("name", ["squad.json", "squad.json.gz"])
def test_spoilt_bytes(name: str, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    path, good = tmp_path / name, json.dumps(GOOD).encode()

    @given(raw=spoil_bytes(gzip.compress(good, mtime=0) if name.endswith("gz") else good))
    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        answer(lambda: FILES.read_squad(path))

    check()


def test_a_file_that_unpacks_to_fill_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RAW, "MAX_UNCHECKED_BYTES", 2**16)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 2**20, mtime=0))
    with pytest.raises(DataError, match="unpacks to more than"):
        FILES.read_squad(path)
