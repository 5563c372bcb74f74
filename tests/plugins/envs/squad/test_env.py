"""The env squad: files, windows, answers, metrics, tasks, and a run."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import sidetune_core
from sidetune_core import api
from sidetune_core.cli.main import main
from sidetune_core.config import kinds, registry

SQUAD = registry.load(registry.find(kinds.ENV, "squad"))
MakeSquad = Callable[..., Path]


@pytest.fixture
def stream(tiny_bert: Path, make_squad: MakeSquad) -> Callable[..., Any]:
    """Makes the env on small files, with the tokenizer of a few words."""

    def make(**options: Any) -> Any:
        if "train_file" not in options:
            options["train_file"] = make_squad()
        return SQUAD(
            SQUAD.Config(**{"tokenizer": str(tiny_bert), "max_length": 48, "doc_stride": 16, **options}), 0
        )

    return make


def questions_of(task: Any) -> tuple[list[str], list[str]]:
    """Ids of the training questions and to be test on."""
    train, test = task._train.questions, task._test.questions
    return [question.id for question, _ in train], [question.id for question, _ in test]


# Files


def spoilt(path: Path, change: Callable[[Any], object]) -> Path:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return path


def first(values: Any) -> Any:
    """The first paragraph."""
    return values["data"][0]["paragraphs"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("data"), "missing key 'data'"),
        (lambda v: v.update(data=[]), "has no articles"),
        (lambda v: v.update(data={}), "'data' must be a list, not an object"),
        (
            lambda v: v["data"].append({"title": "Bare", "paragraphs": []}),
            "article 2 'Bare' has no questions",
        ),
        (lambda v: v["data"].append(3), "article 2: expected an object, not an integer"),
        (lambda v: first(v).update(context=" \n"), "paragraph 0 has an empty context"),
        (lambda v: first(v).update(context=None), "'context' must be text, not null"),
        (lambda v: first(v).update(context="\ud800"), "'context' holds invalid Unicode"),
        (lambda v: first(v)["qas"][0].update(question=""), "question 0 'squad.json-0-0-0' has no text"),
        (
            lambda v: first(v)["qas"][1].update(id="squad.json-1-0-0"),
            "repeated question ids: 1, such as 'squad.json-1-0-0'",
        ),
        (lambda v: first(v)["qas"][0].update(answers=[]), "has no answers, but is_impossible is not set"),
        (lambda v: first(v)["qas"][0]["answers"][0].update(text=""), "the text of an answer is empty"),
        (lambda v: first(v)["qas"][0].update(is_impossible=True), "has answers, but is_impossible is set"),
        (
            lambda v: first(v)["qas"][0]["answers"][0].update(answer_start=True),
            "'answer_start' must be an integer, not true or false",
        ),
        (
            lambda v: first(v)["qas"][0]["answers"][0].update(answer_start=2),
            "question squad.json-0-0-0: the answer 'Alfred' does not match .* answer_start 2 .*found 'e old ",
        ),
        (lambda v: first(v)["qas"][0]["answers"][0].update(answer_start=-60), "the answer 'Alfred' does not"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    change: Callable[[Any], object], message: str, make_squad: MakeSquad, stream: Any
) -> None:
    path = spoilt(make_squad(), change)
    with pytest.raises(api.DataError, match=message):
        stream(train_file=path).tasks()


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_what_is_no_json_is_named(content: bytes, suffix: str, tmp_path: Path, stream: Any) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(api.DataError, match="broken.json"):
        stream(train_file=path).tasks()


def test_many_answers_in_the_wrong_place_are_counted(make_squad: MakeSquad, stream: Any) -> None:
    def shift(values: Any) -> None:
        for article in values["data"]:
            for paragraph in article["paragraphs"]:
                for answer in paragraph["qas"][0]["answers"]:
                    answer["answer_start"] += 100

    with pytest.raises(api.DataError, match="20 faults: question squad.json-0-0-0.*; and 17 more. Correct"):
        stream(train_file=spoilt(make_squad(), shift)).tasks()


def test_a_file_that_is_missing_is_named(tmp_path: Path, stream: Any) -> None:
    with pytest.raises(api.DataError, match="no file .*nowhere.json"):
        stream(train_file=tmp_path / "nowhere.json").tasks()


# Splits and streams


def test_a_compressed_file_gives_the_same_tasks(make_squad: MakeSquad, stream: Any) -> None:
    plain = make_squad()
    packed = plain.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = stream(train_file=plain), stream(train_file=packed)
    assert questions_of(one.tasks()[0]) == questions_of(other.tasks()[0])
    assert one.fingerprint() == other.fingerprint()
    assert one.data_fingerprint() == other.data_fingerprint()


def test_the_data_fingerprint_depends_on_the_answers(make_squad: MakeSquad, stream: Any) -> None:
    found = []
    for change in (first, lambda values: first(values)["qas"][0]["answers"].pop()):
        env = stream(train_file=spoilt(make_squad(), change))
        env.tasks()
        found.append((env.fingerprint(), env.data_fingerprint(), env.data_parts()))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    before, after = found[0][2], found[1][2]
    assert [name for name in before if before[name] != after[name]] == ["t0/train"]


def test_every_fifth_paragraph_is_tested_where_nothing_else_is(stream: Any) -> None:
    train, test = questions_of(stream().tasks()[0])
    assert test == [
        f"squad.json-{article}-{number}-{which}"
        for article in (0, 1)
        for number in (4, 9)
        for which in (0, 1)
    ]
    assert len(train) == 32
    assert not set(train) & set(test)


def test_a_file_of_its_own_is_tested(make_squad: MakeSquad, stream: Any) -> None:
    train, test = questions_of(stream(dev_file=make_squad("dev.json", 1)).tasks()[0])
    assert len(train) == 40
    assert {number.split("-")[0] for number in test} == {"dev.json"}


def test_articles_are_tested_by_name(stream: Any) -> None:
    train, test = questions_of(stream(test_articles=("Article_1",)).tasks()[0])
    assert {number[:12] for number in train} == {"squad.json-0"}
    assert {number[:12] for number in test} == {"squad.json-1"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"test_articles": ("Article_7",)}, api.DataError, "has no article 'Article_7'"),
        ({"test_articles": ("Article_0", "Article_1")}, api.DataError, "lists all articles"),
        ({"test_articles": ("Article_0",), "dev_file": Path("x")}, api.OptionError, "both are given"),
        (
            {"test_articles": ("Article_0",), "train_file": None},
            api.OptionError,
            "pass it with --env.train-file",
        ),
        ({"num_tasks": 3}, api.DataError, "2 training articles, too few for 3 tasks"),
        ({"max_length": 16}, api.OptionError, "a window of 16 tokens .* has no room"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, stream: Any
) -> None:
    with pytest.raises(error, match=message):
        stream(**options).tasks()


def test_more_questions_come_last_and_must_be_others(make_squad: MakeSquad, stream: Any) -> None:
    train, _ = questions_of(stream(extra_train_file=make_squad("more.json", 1)).tasks()[0])
    assert [number.split("-")[0] for number in train] == ["squad.json"] * 32 + ["more.json"] * 20
    with pytest.raises(api.DataError, match="such as 'squad.json-0-0-0'"):
        stream(extra_train_file=make_squad()).tasks()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"max_paragraphs": 3}, 6),
        ({"max_paragraphs": 9}, 18),
        ({"max_questions": 5}, 5),
        ({"article_step": 2}, 16),
    ],
)
def test_few_are_the_first_ones(options: dict[str, int], count: int, stream: Any) -> None:
    train, test = questions_of(stream(**options).tasks()[0])
    everything, _ = questions_of(stream().tasks()[0])
    assert train == everything[:count]
    assert len(test) == 8


def test_articles_make_a_stream_of_tasks_without_common_ids(stream: Any) -> None:
    tasks = stream(num_tasks=2).tasks()
    assert [(task.id, task.title) for task in tasks] == [("t0", "Article_0"), ("t1", "Article_1")]
    assert [{number[:12] for half in questions_of(task) for number in half} for task in tasks] == [
        {"squad.json-0"},
        {"squad.json-1"},
    ]
    ids = [
        set(range(asked.first_id, asked.first_id + len(asked.windows)))
        for task in tasks
        for asked in (task._train, task._test)
    ]
    assert len(set().union(*ids)) == sum(map(len, ids))


# Windows


def windows(
    tiny_bert: Path, question: str, context: str, answer: str = "", window: int = 48, stride: int = 16
) -> Any:
    files, module, tokenizers = (private(name) for name in ("files", "windows", "tokenizer"))
    answers = (files.Answer(answer, context.index(answer)),) if answer else ()
    asked = [(files.Question("q", question, answers), context)]
    return module.make_windows(tokenizers.load_tokenizer(str(tiny_bert)), asked, window, stride, "here")


def private(name: str) -> Any:
    import importlib

    return importlib.import_module(f"sidetune_plugins.envs.squad.{name}")


LONG = (
    "Alfred built the tower in 1066. "
    + "Old stone bridge. " * 10
    + "Matilda built the church in 1215. "
    + "The river is long. " * 8
)


@pytest.mark.parametrize(
    ("answer", "length"), [("Alfred", 32), ("Matilda", 32), ("in 1215", 48), ("long", 48), ("1066. Old", 32)]
)
def test_the_target_of_a_window_is_the_answer_in_its_characters(
    answer: str, length: int, tiny_bert: Path
) -> None:
    made = windows(tiny_bert, "Who built the tower?", LONG, answer, window=length, stride=8)
    found = 0
    for number, (first_token, last_token) in enumerate(made.targets.tolist()):
        begin = int(made.ends[number] - made.lengths[number])
        characters = made.offsets[begin : int(made.ends[number])]
        if first_token:
            found += 1
            assert LONG[int(characters[first_token, 0]) : int(characters[last_token, 1])] == answer
        else:
            inside = characters[characters[:, 0] >= 0]
            start = LONG.index(answer)
            assert not (inside[0, 0] <= start and start + len(answer) <= inside[-1, 1])
    assert found >= 1


def test_windows_begin_a_stride_of_tokens_apart_and_cover_the_context(tiny_bert: Path) -> None:
    made = windows(tiny_bert, "Who?", LONG, window=32, stride=8)
    (whole,) = (one.offsets for one in [windows(tiny_bert, "Who?", LONG, window=400, stride=8)])
    everything = whole[whole[:, 0] >= 0].tolist()
    assert made.lengths.max() == 32
    position = 0
    for number in range(len(made)):
        part = made.offsets[int(made.ends[number] - made.lengths[number]) : int(made.ends[number])]
        inside = part[part[:, 0] >= 0].tolist()
        assert inside == everything[position : position + len(inside)]
        position += 8
    assert inside[-1] == everything[-1]


def test_every_token_of_the_context_may_begin_an_answer_in_one_window(tiny_bert: Path) -> None:
    made = windows(tiny_bert, "Who?", LONG, window=32, stride=8)
    begins = made.offsets[made.can_start].tolist()
    whole = windows(tiny_bert, "Who?", LONG, window=400, stride=8).offsets
    assert sorted(begins) == whole[whole[:, 0] >= 0].tolist()
    last = made.offsets[int(made.ends[-1] - made.lengths[-1]) :]
    assert not made.can_start[int(made.ends[-1] - made.lengths[-1]) :][: int((last[:, 0] < 0).sum())].any()


def test_a_question_longer_than_the_window_is_named(make_squad: MakeSquad, stream: Any) -> None:
    path = spoilt(make_squad(), lambda values: first(values)["qas"][1].update(question="who " * 60))
    with pytest.raises(
        api.DataError,
        match="1 of [0-9]+ questions are too long.* room for 29; the longest, 'squad.json-0-0-1', has 60. "
        "Truncate them with --env.max-question-length 29",
    ):
        stream(train_file=path).tasks()


# Answers


def test_the_best_spans_are_those_of_an_exhaustive_search() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 20, 2, generator=generator)
    begins = torch.zeros(1, 20, dtype=torch.bool)
    begins[0, 5:15] = True
    inside = begins.clone()
    inside[0, 15:18] = True
    sums, start, end = private("answers").best_spans(scores, begins, inside, 4, 6)
    expected = sorted(
        (
            (float(scores[0, i, 0] + scores[0, j, 1]), i, j)
            for i in range(5, 15)
            for j in range(i, min(i + 4, 18))
        ),
        reverse=True,
    )[:6]
    assert list(zip(start[0].tolist(), end[0].tolist(), strict=True)) == [(i, j) for _, i, j in expected]
    assert sums[0].tolist() == pytest.approx([value for value, _, _ in expected])


def test_of_several_windows_the_best_answer_and_the_least_certain_none_count() -> None:
    votes = private("answers").AnswerVotes()
    votes.null_score = min(3.0, 1.5)
    for text, score in (("a", 1.0), ("b", 2.0), ("a", 0.5), ("", 9.0)):
        votes.add(text, score)
    assert votes.best(5) == [("b", 2.0), ("a", 1.0)]
    assert votes.null_odds == -0.5
    assert [votes.prediction(threshold) for threshold in (None, 0.0, -1.0)] == ["b", "b", ""]
    written = votes.with_probabilities(1, nullable=True)
    assert [entry["text"] for entry in written] == ["b", ""]
    assert written[0]["probability"] == pytest.approx(1 / (1 + math.exp(-0.5)))


# Figures


def test_the_metrics_are_those_of_the_official_scorer(shared_data: Path) -> None:
    path = shared_data / "squad"
    articles = private("files").read_squad(path / "squad-v2-16-articles.json.gz")
    questions = [
        question
        for article in articles
        for paragraph in article.paragraphs
        for question in paragraph.questions
    ]
    predictions = json.loads(gzip.decompress((path / "predictions-16-articles.json.gz").read_bytes()))
    found = private("scoring").squad_metrics(questions, predictions, {})
    official = {
        "exact": 78.97334649555775,
        "f1": 81.82635533198284,
        "hasans-exact": 75.39518900343643,
        "hasans-f1": 81.35415385147485,
        "noans-exact": 82.26010101010101,
    }
    assert len(questions) == 6078
    assert sum(not question.answers for question in questions) == 3168
    assert {name: 100 * value for name, value in found.items()} == pytest.approx(official, rel=0, abs=1e-9)


def test_the_best_threshold_is_that_of_trying_all() -> None:
    files, scores = private("files"), private("scoring")
    generator = torch.Generator().manual_seed(1)
    questions, predictions, odds = [], {}, {}
    for number in range(40):
        answers = (files.Answer("red stone", 0),) if number % 3 else ()
        questions.append(files.Question(str(number), "?", answers))
        predictions[str(number)] = ("red stone", "a red", "blue", "")[number % 4]
        odds[str(number)] = (
            float(torch.randn((), generator=generator))
            - 2 * scores.score_prediction(questions[-1], predictions[str(number)]).f1
        )
    found = scores.squad_metrics(questions, predictions, odds)
    for name in ("exact", "f1"):

        def mean(threshold: float, name: str = name) -> float:
            values = []
            for question in questions:
                kept = getattr(scores.score_prediction(question, predictions[question.id]), name)
                values.append(float(not question.answers) if odds[question.id] > threshold else kept)
            return sum(values) / len(values)

        best = max(mean(threshold) for threshold in [*odds.values(), -math.inf])
        assert found[f"best-{name}"] == pytest.approx(best)
        assert mean(found[f"best-{name}-threshold"]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("reference", "given", "exact", "f1"),
    [
        ("The Tower, of London!", "tower of london", 1.0, 1.0),
        ("Harold", "King Harold", 0.0, 2 / 3),
        ("a", "the", 1.0, 1.0),
        ("red red", "red", 0.0, 2 / 3),
        ("Edith", "", 0.0, 0.0),
    ],
)
def test_a_score_goes_by_normalised_words(reference: str, given: str, exact: float, f1: float) -> None:
    question = private("files").Question("q", "?", (private("files").Answer(reference, 0),))
    found = private("scoring").score_prediction(question, given)
    assert (found.exact, found.f1) == (exact, pytest.approx(f1))


# Tasks


def test_the_batches_of_a_bucket_are_sorted_and_hold_every_example_once() -> None:
    lengths = torch.randint(5, 100, (64,), generator=torch.Generator().manual_seed(0))
    batches = [
        row for row, _ in zip(private("task").bucketed(lengths, api.Order(0, 4)), range(16), strict=False)
    ]
    assert torch.cat(batches).sort().values.tolist() == list(range(64))
    spans = sorted((int(lengths[row].min()), int(lengths[row].max())) for row in batches)
    assert all(one[1] <= other[0] for one, other in zip(spans, spans[1:], strict=False))
    assert [int(lengths[row].max()) for row in batches] != sorted(int(lengths[row].max()) for row in batches)


def test_the_loss_is_that_of_the_real_positions_alone(stream: Any) -> None:
    task = stream().tasks()[0]
    batch = next(task.train(None, api.Order(0, 3)))
    output = torch.randn(*batch.inputs["tokens"].shape, 2)
    found = task.loss(output, batch)
    for row, length in enumerate(batch.inputs.lengths.tolist()):
        cut = output[row : row + 1, :length]
        both = [functional.cross_entropy(cut[..., k], batch.targets[row : row + 1, k]) for k in (0, 1)]
        torch.testing.assert_close(found[row], sum(both) / 2)


def test_a_network_that_knows_the_answers_scores_all_of_them(stream: Any) -> None:
    task = stream().tasks()[0]

    def predict(inputs: api.Inputs) -> torch.Tensor:
        output = torch.zeros(*inputs["tokens"].shape, 2)
        assert inputs.ids is not None
        for row, place in enumerate((inputs.ids - task._test.first_id).tolist()):
            for k in (0, 1):
                output[row, task._test.windows.targets[place, k], k] = 5.0
        return output

    found = task.evaluate(predict)
    assert (found["exact"], found["f1"], found["hasans-f1"], found["noans-exact"], found["best-f1"]) == (
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
    )
    documents = {name: json.loads(text) for name, text in task.documents().items()}
    assert documents.keys() == {"predictions.json", "nbest_predictions.json", "null_odds.json"}
    assert documents["predictions.json"]["squad.json-0-4-0"] == "Alfred"
    assert documents["predictions.json"]["squad.json-0-4-1"] == ""
    assert (
        documents["null_odds.json"]["squad.json-0-4-0"] < 0 < documents["null_odds.json"]["squad.json-0-4-1"]
    )
    assert documents["nbest_predictions.json"]["squad.json-0-4-0"][0]["text"] == "Alfred"


def test_documents_are_strict_json_where_a_position_is_masked(stream: Any) -> None:
    task = stream().tasks()[0]

    def predict(inputs: api.Inputs) -> torch.Tensor:
        output = torch.zeros(*inputs["tokens"].shape, 2)
        output[:, 0] = -math.inf
        return output

    task.evaluate(predict)
    assert set(json.loads(task.documents()["null_odds.json"]).values()) == {None}
    assert "Infinity" not in "".join(task.documents().values())


def test_without_unanswerable_questions_each_gets_an_answer(make_squad: MakeSquad, stream: Any) -> None:
    task = stream(train_file=make_squad(impossible=False)).tasks()[0]
    found = task.evaluate(lambda inputs: torch.zeros(*inputs["tokens"].shape, 2))
    assert found.keys() == {"exact", "f1", "loss"}
    assert all(json.loads(task.documents()["predictions.json"]).values())
    assert "null_odds.json" not in task.documents()


def test_questions_without_an_answer_are_left_out(stream: Any) -> None:
    task = stream(answerable_only=True).tasks()[0]
    train, test = questions_of(task)
    assert (len(train), len(test)) == (16, 4)
    assert all(question.endswith("-0") for question in train + test)
    assert task.evaluate(lambda inputs: torch.zeros(*inputs["tokens"].shape, 2)).keys() == {
        "exact",
        "f1",
        "loss",
    }


def test_that_no_question_has_an_answer_is_said(squad_file: Path, stream: Any) -> None:
    def unanswer(values: Any) -> None:
        for article in values["data"]:
            for paragraph in article["paragraphs"]:
                paragraph["qas"] = paragraph["qas"][1:]

    with pytest.raises(api.DataError, match="no training question has an answer"):
        stream(train_file=spoilt(squad_file, unanswer), answerable_only=True).tasks()


# Runs


@pytest.fixture
def spec(tiny_bert: Path, make_squad: MakeSquad) -> Callable[..., sidetune_core.RunSpec]:
    def make(
        learner: str = "sidetune", side: Any = "ladder-text", env: Any = (), **train: Any
    ) -> sidetune_core.RunSpec:
        own = {
            "name": "squad",
            "train": str(make_squad()),
            "tokenizer": str(tiny_bert),
            "window": 48,
            "stride": 16,
            "tasks": 2,
        }
        options = {"steps": 2, "batch": 4, "lr": 1e-2, "precision": "fp32", "store": "off", **train}
        base = {"name": "transformer", "model": str(tiny_bert)}
        return sidetune_core.RunSpec(
            base=base, side=side, learner=learner, env={**own, **dict(env)}, train=options
        )

    return make


@pytest.mark.parametrize(
    ("learner", "side"),
    [
        ("features", None),
        ("finetune", None),
        ("scratch", None),
        ("sidetune", {"name": "encoder", "layers": 1}),
        ("sidetune", {"name": "encoder", "init": "random", "width": 8, "heads": 2}),
        ("sidetune", {"name": "ladder-text", "width": 8, "heads": 2}),
    ],
)
def test_each_method_runs_and_writes_its_predictions(
    learner: str, side: Any, spec: Any, tmp_path: Path
) -> None:
    run = sidetune_core.run(spec(learner, side, precision="bf16"), tmp_path / "run")
    assert all(0 <= figure <= 1 for row in run.results.rows for figure in row if figure is not None)
    for task in ("t0", "t1"):
        predictions = json.loads(
            (tmp_path / "run" / "documents" / f"{task}-test" / "predictions.json").read_text()
        )
        assert len(predictions) == 4


def without_answers(path: Path, task: Any, questions: list[str]) -> Path:
    """A file of some questions of SQuAD's format whose answers are missing."""
    values = json.loads(task.read_text())
    for article in values["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [
                {"id": question["id"], "question": question["question"]}
                for question in paragraph["qas"]
                if question["id"] in questions
            ]
    path.write_text(json.dumps(values))
    return path


def test_the_command_predict_writes_what_the_run_reported(
    spec: Any, squad_file: Path, tmp_path: Path
) -> None:
    run = sidetune_core.run(spec(env={"tasks": 1}), tmp_path / "run")
    official = (tmp_path / "run" / "documents" / "t0-test" / "predictions.json").read_text()
    questions = without_answers(tmp_path / "questions.json", squad_file, [*json.loads(official)])
    out = tmp_path / "predictions.json"
    assert main(["predict", str(tmp_path / "run"), str(questions), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == json.loads(official)
    files, scoring = private("files"), private("scoring")
    answered = [
        question
        for article in files.read_squad(squad_file)
        for p in article.paragraphs
        for question in p.questions
    ]
    scored = [question for question in answered if question.id in json.loads(official)]
    metrics = scoring.squad_metrics(scored, json.loads(out.read_text()), {})
    assert metrics["f1"] == run.results.rows[-1][0]


@pytest.mark.parametrize(
    ("side", "kept"), [({"name": "encoder", "init": "random"}, "memory"), ({"name": "ladder-text"}, "disk")]
)
def test_reused_encodings_are_those_of_the_base(
    side: dict[str, Any], kept: str, spec: Any, tmp_path: Path
) -> None:
    for store in ("off", kept):
        made = spec(
            "sidetune",
            {**side, "width": 8, "heads": 2},
            steps=12,
            store=store,
            store_dir=str(tmp_path / "kept"),
        )
        sidetune_core.run(made, tmp_path / store)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert (tmp_path / "off" / name).read_text() == (tmp_path / kept / name).read_text()
    assert any((tmp_path / "kept").rglob("*")) is (kept == "disk")


@pytest.mark.parametrize(
    "merger", ["alpha", "concat", "film", "mlp", "mlp2", "mlp-hidden", "product", "resmlp", "side", "sum"]
)
def test_mergers_take_sequences_that_are_shorter_than_declared(merger: str) -> None:
    cls = registry.load(registry.find(kinds.MERGER, merger))
    made = cls(cls.Config(), (40, 16), 2).eval()
    whole = [torch.randn(2, 40, 16) for _ in range(2)]
    torch.testing.assert_close(made([one[:, :7] for one in whole]), made(whole)[:, :7])


def test_a_tokenizer_of_another_base_is_refused_before_training(spec: Any, tmp_path: Path) -> None:
    with pytest.raises(api.FitError, match="base 'transformer' has 48 embeddings"):
        sidetune_core.run(spec(env={"tokenizer": "minilm"}), tmp_path / "run")


def test_a_folder_without_a_tokenizer_is_refused_before_training(
    spec: Any, tiny_bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((tiny_bert / "config.json").read_text())
    with pytest.raises(api.DataError, match="bare has no tokenizer"):
        sidetune_core.run(spec(env={"tokenizer": str(tmp_path / "bare")}), tmp_path / "run")


def test_a_folder_with_a_damaged_tokenizer_is_refused(spec: Any, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    with pytest.raises(api.DataError, match="cannot load the tokenizer"):
        sidetune_core.run(spec(env={"tokenizer": str(tmp_path / "bad")}), tmp_path / "run")
    with pytest.raises(api.DataError, match="no folder .*nowhere"):
        sidetune_core.run(spec(env={"tokenizer": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_a_base_that_reads_images_does_not_fit(spec: Any, tmp_path: Path) -> None:
    images = spec("features", None)
    with pytest.raises(api.FitError, match="needs an input 'image'"):
        sidetune_core.run(
            sidetune_core.RunSpec(base="resnet20", learner="features", env=images.env), tmp_path / "run"
        )
