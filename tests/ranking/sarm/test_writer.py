import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from engine.data.endpoint import Endpoint
from engine.errors import DataError, EndpointError
from engine.ranking.sarm.anchors import FIELDS
from engine.ranking.sarm.writer import AnchorCounts, parse_anchor, write_anchors
from tests.data.endpoint import Served, serve

AUTHORS = pl.DataFrame(
    {
        "author_id": [3, 1, 3],
        "time": [5, 5, 9],
        "text": ["cooks", "sings", "cooks fish"],
        "images": [["http://x/1.jpg", "http://x/2.jpg"], [], ["http://x/3.jpg"]],
    },
    schema_overrides={"images": pl.List(pl.String)},
)


def says(content: str | None) -> tuple[int, dict[str, Any]]:
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


def text_of(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"][0]["text"])


def good(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return says(json.dumps(dict.fromkeys(FIELDS, "") | {"theme": text_of(body)}))


def write(folder: Path, server: Served, workers: int = 1) -> tuple[pl.DataFrame, AnchorCounts]:
    endpoint = Endpoint(server.base_url, "key", retries=2)
    return write_anchors(
        AUTHORS, folder / "deep" / "anchors.jsonl", endpoint=endpoint, model="see", workers=workers
    )


def test_every_author_and_time_is_asked_once_with_its_images(tmp_path: Path) -> None:
    with serve(good) as server:
        found, counts = write(tmp_path, server, workers=3)
    assert counts == AnchorCounts(asked=3, described=3, refused=0)
    assert found.select("author_id", "time", "theme").rows() == [
        (1, 5, "sings"), (3, 5, "cooks"), (3, 9, "cooks fish"),
    ]  # fmt: skip
    bodies = {text_of(body): body for _, body in server.requests}
    assert [part["image_url"]["url"] for part in bodies["cooks"]["messages"][1]["content"][1:]] == [
        "http://x/1.jpg", "http://x/2.jpg",
    ]  # fmt: skip
    assert len(bodies["sings"]["messages"][1]["content"]) == 1
    assert {path for path, _ in server.requests} == {"/v1/chat/completions"}
    assert bodies["sings"]["model"] == "see"
    assert all(name in bodies["sings"]["messages"][0]["content"] for name in FIELDS)


def test_a_restart_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    def interrupted(body: dict[str, Any]) -> tuple[int, Any]:
        return good(body) if text_of(body) == "cooks" else (400, {"error": "out of credit"})

    with serve(interrupted) as server, pytest.raises(EndpointError, match=r"got 400: .*credit"):
        write(tmp_path, server)
    with serve(good) as server:
        assert write(tmp_path, server)[1] == AnchorCounts(asked=2, described=3, refused=0)
        assert [text_of(body) for _, body in server.requests] == ["sings", "cooks fish"]
        path = tmp_path / "deep" / "anchors.jsonl"
        path.write_bytes(path.read_bytes()[:-20])  # as an interrupted write leaves it
        assert write(tmp_path, server)[1].asked == 1
        assert write(tmp_path, server)[1].asked == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sure!", "answer: Invalid JSON"),
        ('{"theme": "x"}', "point_of_interest: Field required"),
        (json.dumps(dict.fromkeys(FIELDS, 1)), "point_of_interest: Input should be a valid string"),
        (json.dumps(dict.fromkeys([*FIELDS, "mood"], "")), "mood: Extra inputs are not permitted"),
        (None, "answer: Invalid JSON"),
    ],
)
def test_a_bad_answer_is_asked_once_more_with_the_reason(
    tmp_path: Path, answer: str | None, reason: str
) -> None:
    def corrects_itself(body: dict[str, Any]) -> tuple[int, Any]:
        return says(answer) if len(body["messages"]) == 2 else good(body)

    with serve(corrects_itself) as server:
        assert write(tmp_path, server)[1] == AnchorCounts(asked=3, described=3, refused=0)
    again = server.requests[1][1]["messages"]
    assert reason in again[3]["content"]
    assert parse_anchor(answer or "")[0] is None


def test_an_author_refused_twice_costs_only_itself(tmp_path: Path) -> None:
    def stubborn(body: dict[str, Any]) -> tuple[int, Any]:
        return says("no") if text_of(body) == "sings" else good(body)

    with serve(stubborn) as server:
        found, counts = write(tmp_path, server)
        assert counts == AnchorCounts(asked=3, described=2, refused=1)
        assert len(server.requests) == 4
        assert write(tmp_path, server)[1] == AnchorCounts(asked=0, described=2, refused=1)
    assert found["author_id"].to_list() == [3, 3]
    lines = (tmp_path / "deep" / "anchors.jsonl").read_text().splitlines()
    refused = [line for line in map(json.loads, lines) if "error" in line]
    assert [line["author_id"] for line in refused] == [1]


def test_nobody_to_ask_is_an_empty_table(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "key")
    found, counts = write_anchors(
        AUTHORS.clear(), tmp_path / "a.jsonl", endpoint=endpoint, model="see"
    )
    assert (len(found), counts) == (0, AnchorCounts(0, 0, 0))


def test_foreign_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "anchors.jsonl").write_text('{"hello": 1}\n')
    with (
        serve(good) as server,
        pytest.raises(DataError, match=r"jsonl row 0: expected an answer line, got b'.*1\}'"),
    ):
        write(tmp_path, server)
