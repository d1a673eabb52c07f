import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.hashed_words import HashedWords
from engine.data.endpoint import Endpoint
from engine.data.prepare import prepare
from engine.data.shop import Shop
from engine.data.tagger import TagCounts, Vocabulary, parse_tags, tag_items
from engine.errors import ConfigError, DataError, EndpointError
from tests.data.endpoint import Answer, Served, serve
from tests.shop import write_shop

VOCABULARY = Vocabulary({"diet": ["vegan", "dairy"], "meal": ["breakfast", "dinner"]})


def text_of(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"])


def says(content: str | None) -> tuple[int, dict[str, Any]]:
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


def good(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    diet = ["dairy"] if "milk" in text_of(body) else []
    return says(json.dumps({"diet": diet, "meal": ["breakfast", "breakfast"]}))


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.parquet"
    texts = ["milk", "oats", "milk", "soup"]
    pl.DataFrame({"item_id": range(4), "text": texts}).write_parquet(path)
    return path


def tag(items: Path, server: Served, workers: int = 1) -> TagCounts:
    return tag_items(
        items,
        items.parent / "tagged.parquet",
        items.parent / "answers" / "tags.jsonl",
        endpoint=Endpoint(server.base_url, "key", retries=2),
        model="labeller",
        vocabulary=VOCABULARY,
        workers=workers,
    )


def tagged(items: Path) -> list[list[str] | None]:
    return pl.read_parquet(items.parent / "tagged.parquet")["tags"].to_list()


def lines(items: Path) -> list[dict[str, Any]]:
    path = items.parent / "answers" / "tags.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_distinct_text_is_asked_once(items: Path) -> None:
    with serve(good) as server:
        assert tag(items, server, workers=3) == TagCounts(asked=3, tagged=3, refused=0)
    assert sorted(text_of(body) for _, body in server.requests) == ["milk", "oats", "soup"]
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "labeller"
    assert body["response_format"] == {"type": "json_object"}
    assert '"meal":["breakfast","dinner"]' in body["messages"][0]["content"]
    dairy = ["diet=dairy", "meal=breakfast"]
    assert tagged(items) == [dairy, ["meal=breakfast"], dairy, ["meal=breakfast"]]


def test_a_restart_asks_only_for_what_is_missing(items: Path) -> None:
    def interrupted(body: dict[str, Any]) -> tuple[int, Any]:
        return good(body) if text_of(body) == "milk" else (400, {"error": "out of credit"})

    with serve(interrupted) as server:
        with pytest.raises(
            EndpointError, match=r"/v1/chat/completions: expected 200, got 400: .*out of credit"
        ):
            tag(items, server)
        assert [line["text"] for line in lines(items)] == ["milk"]
    with serve(good) as server:
        assert tag(items, server) == TagCounts(asked=2, tagged=3, refused=0)
        assert [text_of(body) for _, body in server.requests] == ["oats", "soup"]
        assert tag(items, server) == TagCounts(asked=0, tagged=3, refused=0)
    assert len(lines(items)) == 3


def test_a_line_that_was_cut_off_is_asked_again(items: Path) -> None:
    with serve(good) as server:
        tag(items, server)
        path = items.parent / "answers" / "tags.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        assert tag(items, server).asked == 1
    assert [line["text"] for line in lines(items)] == ["milk", "oats", "soup"]


def test_a_server_error_is_tried_again(items: Path) -> None:
    failures = iter([(500, {"error": "busy"}), (429, {"error": "slow down"})])
    with serve(lambda body: next(failures, None) or good(body)) as server:
        assert tag(items, server) == TagCounts(asked=3, tagged=3, refused=0)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sure! Here you go", "expected a JSON object, got 'Sure! Here you go'"),
        ('{"diet": ["vegan"', "expected a JSON object, got"),
        ('["vegan"]', "expected a JSON object, got '[\"vegan\"]'"),
        ('{"colour": ["red"]}', "expected the facets diet, meal, got 'colour'"),
        ('{"diet": "vegan"}', "diet: expected a list, got 'vegan'"),
        ('{"diet": ["vegan", "keto"]}', "diet: expected labels of vegan, dairy, got 'keto'"),
        ('{"diet": [["vegan"]]}', "diet: expected labels of vegan, dairy, got ['vegan']"),
        (None, "expected a JSON object, got ''"),
    ],
)
def test_a_refused_answer_is_asked_once_more_with_the_reason(
    items: Path, answer: str | None, reason: str
) -> None:
    def corrects_itself(body: dict[str, Any]) -> tuple[int, Any]:
        return says(answer) if len(body["messages"]) == 2 else good(body)

    with serve(corrects_itself) as server:
        assert tag(items, server) == TagCounts(asked=3, tagged=3, refused=0)
    again = server.requests[1][1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert again[2]["content"] == (answer or "")
    assert reason in again[3]["content"]


def test_a_text_refused_twice_is_recorded_and_left_without_tags(items: Path) -> None:
    def stubborn(body: dict[str, Any]) -> tuple[int, Any]:
        return says('{"diet": ["keto"]}') if text_of(body) == "oats" else good(body)

    with serve(stubborn) as server:
        assert tag(items, server) == TagCounts(asked=3, tagged=2, refused=1)
        assert len(server.requests) == 4
        assert tag(items, server) == TagCounts(asked=0, tagged=2, refused=1)
    assert tagged(items)[1] is None
    assert lines(items)[1]["error"] == "diet: expected labels of vegan, dairy, got 'keto'"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda body: (200, b"<html>"), "expected ChatReply as JSON, got '<html>'"),
        (lambda body: (200, {"choices": []}), "expected ChatReply as JSON"),
        (lambda body: (500, {"error": "down"}), "expected 200, got 500: .*down"),
    ],
)
def test_an_endpoint_that_does_not_speak_the_protocol_ends_the_run(
    items: Path, answer: Answer, message: str
) -> None:
    with serve(answer) as server, pytest.raises(EndpointError, match=message):
        tag(items, server)


def test_another_vocabulary_asks_again(items: Path) -> None:
    assert parse_tags('{"diet": []}', VOCABULARY) == ({"diet": []}, "")
    with serve(good) as server:
        tag(items, server)
        path = items.parent / "answers" / "tags.jsonl"
        endpoint = Endpoint(server.base_url, "key")
        wider = Vocabulary({**VOCABULARY.root, "diet": ["vegan", "dairy", "keto"]})
        counts = tag_items(
            items, items, path, endpoint=endpoint, model="labeller", vocabulary=wider
        )
    assert counts.asked == 3


def test_foreign_lines_are_refused(items: Path) -> None:
    path = items.parent / "answers" / "tags.jsonl"
    path.parent.mkdir()
    path.write_text('{"hello": 1}\n')
    with (
        serve(good) as server,
        pytest.raises(
            DataError, match=r"tags.jsonl row 0: expected an answer line, got b'\{\"hello\": 1\}'"
        ),
    ):
        tag(items, server)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"v.json: expected a JSON object of lists: "),
        ('{"diet": "vegan"}', r"v.json: expected a JSON object of lists: "),
        ('{"diet": []}', r"v.json diet: expected distinct values, got \[\]"),
        ('{"diet": ["a", "a"]}', r"v.json diet: expected distinct values, got \['a', 'a'\]"),
        ("{}", r"v.json: expected at least one facet, got none"),
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Vocabulary.read(tmp_path / "v.json")


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"v.json: expected a JSON object of lists: .*No such"):
        Vocabulary.read(tmp_path / "v.json")


def test_the_tags_are_the_datasets(tmp_path: Path) -> None:
    source = write_shop(tmp_path / "s", users=5, items=40, days=20)
    with serve(good) as server:
        tag_items(
            source / "items.parquet",
            source / "items.parquet",
            tmp_path / "tags.jsonl",
            endpoint=Endpoint(server.base_url, "key"),
            model="labeller",
            vocabulary=VOCABULARY,
        )
    assert Shop.read(source).items["tags"].null_count() == 0
    dataset = prepare(source, tmp_path / "out", embedder=HashedWords(), min_tag_items=1)
    assert dataset.meta.tags == ["diet=dairy", "meal=breakfast"]
