"""Anchors by a multimodal language model: an OpenAI-compatible chat endpoint, images by URL.

Answers are appended, as they come, to a file of JSON lines keyed by the hash of the model and of
what it was asked; a run that was interrupted asks only for what is missing there. An answer that
is refused twice costs its author the anchor, and no more.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.data.answers import AnswerLine, ask_all, ask_twice, read_answers
from engine.data.endpoint import Endpoint
from engine.data.schema import Column, checked

from .anchors import FIELDS, checked_anchors

_TASK = (
    "You describe a live streamer for a recommender from pictures of the stream and what is known"
    " of it. Answer with one JSON object and nothing else. Its keys are exactly "
    + ", ".join(FIELDS)
    + "; each value is one short phrase in plain words, or an empty string where nothing can be"
    " told."
)
_COLUMNS = [
    Column("author_id", "item"),
    Column("time", "time"),
    Column("text", "string"),
    Column("images", "strings"),
]


class AnchorCounts(NamedTuple):
    """Authors asked in this run, described in all, refused in all."""

    asked: int
    described: int
    refused: int


class Written(BaseModel):
    """One answer of the model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    point_of_interest: str
    theme: str
    topic: str
    audience: str
    format: str
    scene: str


class _Line(AnswerLine):
    """One line of the answers: the anchor, or why two answers were refused."""

    model_config = ConfigDict(extra="forbid")

    author_id: int
    anchor: Written | None = None
    error: str | None = None


class _Asked(NamedTuple):
    key: str
    author_id: int
    content: list[dict[str, Any]]


def write_anchors(
    authors: pl.DataFrame, answers: Path, *, endpoint: Endpoint, model: str, workers: int = 4
) -> tuple[pl.DataFrame, AnchorCounts]:
    """Asks for the anchor of every author and time; the refused have none in the table.

    Args:
        authors: author_id, time, text (what is known) and images (a list of URLs).
        answers: file of JSON lines; made if missing, appended to if there.
        workers: requests in flight.
    Raises:
        EndpointError: the endpoint failed or is not one; what was answered before is kept.
        DataError: a column of `authors`, or a line of `answers`, that is not as said.
    """
    table = pl.DataFrame(checked(authors, _COLUMNS, "authors", others=False))
    asked = [_asked(row, model) for row in table.iter_rows(named=True)]
    lines = read_answers(answers, _Line)
    missing = list({one.key: one for one in asked if one.key not in lines}.values())

    def ask(one: _Asked) -> _Line:
        anchor, reason = ask_twice(endpoint, model, _TASK, one.content, parse_anchor)
        return _Line(key=one.key, author_id=one.author_id, anchor=anchor, error=reason or None)

    for line in ask_all(missing, ask, answers, workers):
        lines[line.key] = line
    found = [lines[one.key].anchor for one in asked]
    schema: dict[str, Any] = dict.fromkeys(FIELDS, pl.String)
    texts = pl.DataFrame([f.model_dump() if f else dict.fromkeys(FIELDS) for f in found], schema)
    kept = pl.Series([f is not None for f in found], dtype=pl.Boolean)
    frame = pl.concat([table.select("author_id", "time"), texts], how="horizontal").filter(kept)
    described = sum(lines[key].anchor is not None for key in {one.key for one in asked})
    refused = len({one.key for one in asked}) - described
    counts = AnchorCounts(len(missing), described, refused)
    return checked_anchors(frame, "answers"), counts


def parse_anchor(answer: str) -> tuple[Written | None, str]:
    """The anchor of an answer, or None and why it is refused."""
    try:
        return Written.model_validate_json(answer), ""
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"{where or 'answer'}: {first['msg']}, got {answer[:200]!r}"


def _asked(row: dict[str, Any], model: str) -> _Asked:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in row["images"]]
    content = [{"type": "text", "text": row["text"]}, *images]
    what = json.dumps([model, _TASK, row["author_id"], content])
    return _Asked(hashlib.sha256(what.encode()).hexdigest(), row["author_id"], content)
