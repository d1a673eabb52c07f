"""Tags by a language model: an OpenAI-compatible chat endpoint, a controlled vocabulary.

Each distinct item text is asked once. Answers are appended, as they come, to a file of JSON lines
keyed by the hash of model, vocabulary and text; a run that was interrupted asks only for what is
missing there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import ConfigDict, RootModel, ValidationError
from rich.progress import Progress

from engine.errors import ConfigError

from .answers import AnswerLine, ask_all, ask_twice, read_answers
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

    def ask(text: str) -> _Line:
        task = _TASK + vocabulary.model_dump_json()
        tags, reason = ask_twice(
            endpoint, model, task, text, lambda answer: parse_tags(answer, vocabulary)
        )
        return _Line(key=keys[text], text=text, tags=tags, error=reason or None)

    with Progress() as progress:
        task = progress.add_task(f"asking {model} for tags", total=len(missing))
        for line in ask_all(missing, ask, answers, workers):
            lines[line.key] = line
            progress.advance(task)
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
