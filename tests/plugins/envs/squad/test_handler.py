"""Questions that are answered without the env's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from sidetune_core import api
from sidetune_core.assembly.cards import make_card, make_handler
from sidetune_core.config import kinds, registry
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec

SQUAD = registry.load(registry.find(kinds.ENV, "squad"))
MakeSquad = Callable[..., Path]
CONTEXT = "The old tower in the city was built by Alfred in 1066. The river is long."
QUESTION = "Who built the old tower?"


def task_of(tokenizer: Path, file: Path) -> Any:
    options = {"tokenizer": str(tokenizer), "max_length": 32, "doc_stride": 8, "train_file": file}
    return SQUAD(SQUAD.Config(**options), 0).tasks()[0]


def handler_of(task: Any) -> api.TaskHandler:
    card = make_card(task, resolve(RunSpec(env={"name": "squad"}, side="ladder-text")), "")
    handler = make_handler(api.TaskCard.from_json(json.loads(json.dumps(card.to_json()))), Path("card.json"))
    assert handler is not None
    return handler


def network(inputs: api.Inputs) -> torch.Tensor:
    """Some function of each token and its position, (B, l, 2)."""
    tokens = inputs["tokens"].float()
    position = torch.arange(tokens.shape[1])
    return torch.stack([torch.sin(7 * tokens + position), torch.cos(5 * tokens + position)], -1)


@pytest.fixture
def task(tiny_bert: Path, make_squad: MakeSquad) -> Any:
    return task_of(tiny_bert, make_squad())


@pytest.fixture
def handler(task: Any) -> api.TaskHandler:
    return handler_of(task)


def answers(handler: api.TaskHandler, values: Any) -> list[Any]:
    examples = handler.preprocess(values)
    return list(handler.postprocess(network(examples.inputs), examples))


def test_answers_to_a_file_are_the_predictions_of_the_run(
    task: Any, handler: api.TaskHandler, tmp_path: Path
) -> None:
    task.evaluate(network)
    official = task.documents()["predictions.json"]
    questions = [question for question, _ in task._test.questions]
    path = tmp_path / "questions.json"
    paragraphs = [
        {"context": context, "qas": [{"id": question.id, "question": question.text}]}
        for question, context in task._test.questions
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    names, values = zip(*handler.read_file(path), strict=True)
    predictions = dict(zip(names, answers(handler, values), strict=True))
    assert [*names] == [question.id for question in questions]
    assert handler.document(predictions) == official


def test_an_answer_is_a_range_of_its_context(handler: api.TaskHandler) -> None:
    threshold = attrs.evolve(handler.card, values={**handler.card.values, "null_threshold": None})
    (answer,) = answers(type(handler)(threshold), [(QUESTION, CONTEXT)])
    assert answer.text
    assert CONTEXT[answer.start : answer.end] == answer.text


def test_no_answer_has_no_range(handler: api.TaskHandler) -> None:
    threshold = attrs.evolve(handler.card, values={**handler.card.values, "null_threshold": -1000.0})
    (answer,) = answers(type(handler)(threshold), [(QUESTION, CONTEXT)])
    assert (answer.text, answer.start, answer.end) == ("", None, None)


def test_a_pair_and_a_mapping_are_the_same_question(handler: api.TaskHandler) -> None:
    first, second = answers(handler, [(QUESTION, CONTEXT), {"question": QUESTION, "context": CONTEXT}])
    assert first == second


def test_a_pair_of_texts_is_one_question(handler: api.TaskHandler) -> None:
    assert [handler.is_batch(value) for value in ((QUESTION, CONTEXT), [(QUESTION, CONTEXT)], ())] == [
        False,
        True,
        True,
    ]


def test_the_longest_answer_of_a_stranger_takes_no_memory(handler: api.TaskHandler) -> None:
    longest = attrs.evolve(handler.card, values={**handler.card.values, "max_answer_length": 2**19})
    (answer,) = answers(type(handler)(longest), [(QUESTION, CONTEXT)])
    assert answer.probability <= 1


def test_a_context_of_many_windows_is_one_example(handler: api.TaskHandler) -> None:
    examples = handler.preprocess([(QUESTION, CONTEXT * 5)])
    assert examples.count == 1
    assert len(examples.inputs["tokens"]) > 3


def test_the_head_is_made_without_the_data(task: Any, handler: api.TaskHandler) -> None:
    assert str(handler.make_head((32, 5))) == str(task.make_head((32, 5)))


def test_a_tokenizer_of_a_folder_that_is_gone_is_in_the_card(make_squad: MakeSquad, tiny_bert: Path) -> None:
    folder = make_squad().parent / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_bert / name).read_bytes())
    task = task_of(folder, make_squad())
    expected = answers(handler_of(task), [(QUESTION, CONTEXT)])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert answers(handler_of(task), [(QUESTION, CONTEXT)]) == expected


def with_tokenizer(handler: api.TaskHandler, **changes: Any) -> api.TaskHandler:
    tokenizer = {**handler.card.values["tokenizer"], **changes}
    return type(handler)(attrs.evolve(handler.card, values={**handler.card.values, "tokenizer": tokenizer}))


def test_the_card_has_no_path_of_a_tokenizer(task: Any, tiny_bert: Path) -> None:
    values = task.card()["tokenizer"]
    assert str(tiny_bert) not in json.dumps(values)
    assert values["content"]


def test_no_folder_that_a_card_names_is_opened(
    handler: api.TaskHandler, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bert.parent)
    for name in (str(tiny_bert), tiny_bert.name):
        with pytest.raises(api.DataError, match=f"'{name}' is not in the task's card .*only 'minilm'"):
            with_tokenizer(handler, name=name, content="").preprocess([(QUESTION, CONTEXT)])


def test_another_tokenizer_of_the_same_name_is_refused(handler: api.TaskHandler) -> None:
    other = with_tokenizer(handler, name="minilm", content="", vocabulary="0")
    with pytest.raises(api.DataError, match="has another vocabulary than in training"):
        other.preprocess([(QUESTION, CONTEXT)])


@pytest.mark.parametrize("content", ["!", "eJwDAAAAAAE=", "eJyrVgoAARsAnQ"])
def test_a_damaged_tokenizer_is_refused(handler: api.TaskHandler, content: str) -> None:
    with pytest.raises(api.DataError, match="card is damaged"):
        with_tokenizer(handler, content=content).preprocess([(QUESTION, CONTEXT)])


def test_the_tokenizer_of_a_package_is_saved_by_name(make_squad: MakeSquad) -> None:
    values = task_of(Path("minilm"), make_squad()).card()["tokenizer"]
    assert (values["name"], values["content"]) == ("minilm", "")


@pytest.mark.parametrize(
    "change", [{"doc_stride": 0}, {"n_best": True}, {"null_threshold": "0"}, {"tokenizer": {"name": "x"}}]
)
def test_values_of_a_stranger_are_checked(handler: api.TaskHandler, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="its"):
        type(handler)(attrs.evolve(handler.card, values={**handler.card.values, **change}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"question": QUESTION}, "has no context; expected"),
        ({"question": QUESTION, "context": CONTEXT, "contexts": ""}, "unknown key 'contexts'"),
        (QUESTION, "is of type str; expected"),
        ((QUESTION, None), "a context of type NoneType"),
        ((" ", CONTEXT), "an empty question"),
        ((QUESTION, "\ud800"), "invalid Unicode"),
        ((QUESTION * 10, CONTEXT), "a question of 60 tokens; expected at most 21"),
    ],
)
def test_a_wrong_question_is_named_and_refused(handler: api.TaskHandler, value: Any, message: str) -> None:
    with pytest.raises(api.InputError, match=message) as caught:
        handler.preprocess([(QUESTION, CONTEXT), value])
    assert str(caught.value).startswith("input 1")


def test_an_empty_batch_is_refused(handler: api.TaskHandler) -> None:
    with pytest.raises(api.InputError, match="empty"):
        handler.preprocess([])


def test_a_damaged_file_is_refused(handler: api.TaskHandler, tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text("[")
    with pytest.raises(api.InputError, match="cannot be read as JSON"):
        next(handler.read_file(tmp_path / "questions.json"))


def test_threads_share_a_handler(handler: api.TaskHandler) -> None:
    values = [[(QUESTION, CONTEXT * count)] for count in range(1, 20)]
    expected = [answers(handler, value) for value in values]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda value: answers(handler, value), values)) == expected
