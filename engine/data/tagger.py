"""Tags by a language model: an OpenAI-compatible chat endpoint, a controlled vocabulary.

Each distinct item text is asked once. Answers are appended, as they come, to a file of JSON lines
keyed by the hash of model, vocabulary and text; a run that was interrupted asks only for what is
missing there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from rich.progress import Progress

from engine.errors import ConfigError

from .answers import AnswerLine, read_answers
from .endpoint import Endpoint
from .schema import Column, checked, read_parquet

Facets = dict[str, list[str]]

_TASK = (
    "You label the items of a shop. Answer with one JSON object and nothing else. Its keys are "
    "facets, each value is a list of labels. Use only these facets and, for each, only these "
    "labels, spelled as here; give an empty list where none applies:\n"
)


class Vocabulary(RootModel[dict[str, list[str]]]):
    """Facet -> the values that it may take."""

    @staticmethod
    def read(path: Path) -> Vocabulary:
        """A JSON object of lists of strings. Raises ConfigError naming the file and the facet."""
        try:
            vocabulary = Vocabulary.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path}: expected a JSON object of lists: {error}") from error
        for facet, values in vocabulary.root.items():
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{path} {facet}: expected distinct values, got {values}")
        if not vocabulary.root:
            raise ConfigError(f"{path}: expected at least one facet, got none")
        return vocabulary


class TagCounts(NamedTuple):
    """Distinct texts: asked in this run, tagged in all, refused in all."""

    asked: int
    tagged: int
    refused: int


class ChatMessage(BaseModel):
    content: str | None = None  # null where the model refuses to answer


class ChatChoice(BaseModel):
    message: ChatMessage


class ChatReply(BaseModel):
    """The part of a chat completion that is read."""

    choices: list[ChatChoice] = Field(min_length=1)


class _Line(AnswerLine):
    """One line of the answers: the tags by facet, or why two answers were refused."""

    model_config = ConfigDict(extra="forbid")

    text: str
    tags: Facets | None = None
    error: str | None = None


def tag_items(
    items: Path,
    out: Path,
    answers: Path,
    *,
    endpoint: Endpoint,
    model: str,
    vocabulary: Vocabulary,
    workers: int = 4,
) -> TagCounts:
    """Asks for the tags of every distinct text, and writes `items` with a column `tags` to `out`.

    Args:
        items: an items.parquet.
        out: the same table, `tags` (list of `facet=value`, null where the answers were refused).
        answers: file of JSON lines; made if missing, appended to if there.
        workers: requests in flight.
    Raises:
        EndpointError: the endpoint failed or is not one; what was answered before is kept.
        DataError: `items` has no texts, or a line of `answers` is not one of ours.
    """
    table = read_parquet(items)
    texts = checked(table, [Column("text", "string")], items.name, others=True)["text"]
    keys = {text: _key(model, vocabulary, text) for text in texts.unique(maintain_order=True)}
    lines = read_answers(answers, _Line)
    missing = [text for text, key in keys.items() if key not in lines]
    for line in _ask_all(missing, keys, answers, endpoint, model, vocabulary, workers):
        lines[line.key] = line
    found = [lines[keys[text]].tags for text in texts]
    tags = [
        None
        if facets is None
        else [f"{facet}={v}" for facet, values in facets.items() for v in values]
        for facets in found
    ]
    table.with_columns(pl.Series("tags", tags, dtype=pl.List(pl.String))).write_parquet(out)
    refused = sum(lines[key].tags is None for key in keys.values())
    return TagCounts(len(missing), len(keys) - refused, refused)


def _ask_all(
    texts: list[str],
    keys: dict[str, str],
    answers: Path,
    endpoint: Endpoint,
    model: str,
    vocabulary: Vocabulary,
    workers: int,
) -> Iterator[_Line]:
    """Yields each line after it was written; the first EndpointError ends the run."""
    answers.parent.mkdir(parents=True, exist_ok=True)
    with (
        answers.open("a", encoding="utf-8") as file,
        Progress() as progress,
        _pool(workers) as pool,
    ):
        task = progress.add_task(f"asking {model} for tags", total=len(texts))
        futures = [
            pool.submit(_ask, text, keys[text], endpoint, model, vocabulary) for text in texts
        ]
        for future in as_completed(futures):
            line = future.result()
            file.write(line.model_dump_json(exclude_none=True) + "\n")
            file.flush()
            progress.advance(task)
            yield line


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what waits when its user fails, instead of working it off."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ask(text: str, key: str, endpoint: Endpoint, model: str, vocabulary: Vocabulary) -> _Line:
    """Asks once, and once more with the reason when the answer breaks the vocabulary."""
    messages = [
        {"role": "system", "content": _TASK + vocabulary.model_dump_json()},
        {"role": "user", "content": text},
    ]
    reason = ""
    for _ in range(2):
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "temperature": 0,
            "response_format": {"type": "json_object"},
        }
        answer = (
            endpoint.post("/chat/completions", body, ChatReply).choices[0].message.content or ""
        )
        tags, reason = parse_tags(answer, vocabulary)
        if tags is not None:
            return _Line(key=key, text=text, tags=tags)
        messages = [
            *messages,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": f"Refused: {reason}. Answer again, with JSON only."},
        ]
    return _Line(key=key, text=text, error=reason)


def parse_tags(answer: str, vocabulary: Vocabulary) -> tuple[Facets | None, str]:
    """The tags of an answer by facet, or None and why it is refused."""
    try:
        facets = json.loads(answer)
    except ValueError as error:
        return None, f"expected a JSON object, got {answer[:200]!r} ({error})"
    if not isinstance(facets, dict):
        return None, f"expected a JSON object, got {answer[:200]!r}"
    for facet, values in facets.items():
        allowed = vocabulary.root.get(facet)
        if allowed is None:
            return None, f"expected the facets {', '.join(vocabulary.root)}, got {facet!r}"
        if not isinstance(values, list):
            return None, f"{facet}: expected a list, got {values!r}"
        outside = [value for value in values if value not in allowed]
        if outside:
            return None, f"{facet}: expected labels of {', '.join(allowed)}, got {outside[0]!r}"
    return {facet: list(dict.fromkeys(values)) for facet, values in facets.items()}, ""


def _key(model: str, vocabulary: Vocabulary, text: str) -> str:
    return hashlib.sha256(f"{model}\0{vocabulary.model_dump_json()}\0{text}".encode()).hexdigest()
