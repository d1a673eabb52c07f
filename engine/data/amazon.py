"""Amazon review sequences (leave-one-out form) as a shop folder in the project's Parquet schema.

    <Name>.txt           user item item …   one user a line, oldest first, integers apart by spaces
    <Name>.items.jsonl   {"id": …, "asin": …, "text_id": …, "attrs": [...]} one item a line

What must not be taken at face value, and what happens to it here:

- Item numbers were given in order of first appearance: an item's id in the shop is the rank of a
  hash of its ASIN, so that no order of the source reaches a model.
- The protocol cuts by place, not by date: an event's order counts from the user's end, so that one
  cut leaves the last item of everyone out, and another one the last two.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import DataError

MIN_EVENTS = 3  # the answer, the item before it for validation, and something to learn from
UNKNOWN = "unknown"  # a text or subclass that is blank or left out


class AmazonItem(BaseModel):
    """A line of <Name>.items.jsonl; further keys are not read."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: int = Field(ge=1)
    asin: str = Field(min_length=1)
    text_id: str
    attrs: tuple[str, ...] = Field(strict=False)


@dataclass(frozen=True)
class Amazon:
    """The two files, checked.

    Attributes:
        name: stem of the files.
        items: as in the file.
        sequences: user -> ids of the items, oldest first.
    """

    name: str
    items: list[AmazonItem]
    sequences: dict[int, list[int]]

    @staticmethod
    def read(folder: Path) -> Amazon:
        """Raises DataError, with file, line and what is wrong, for whatever breaks the form."""
        lists = sorted(folder.glob("*.items.jsonl"))
        if len(lists) != 1:
            got = ", ".join(path.name for path in lists) or "none"
            raise DataError(f"{folder}: expected one file <Name>.items.jsonl, got {got}")
        name = lists[0].name.removesuffix(".items.jsonl")
        items = _read_items(lists[0])
        return Amazon(name, items, _read_sequences(folder / f"{name}.txt", items))

    @property
    def cuts(self) -> tuple[int, int]:
        """Orders at which everyone's validation item and test item stand."""
        longest = max(map(len, self.sequences.values()))
        return longest - 2, longest - 1


def write_shop(data: Amazon, out: Path, *, text: bool = True, tags: bool = True) -> Path:
    """Writes events, items (Parquet) and shop.json to `out`, and returns it.

    Args:
        text, tags: without, every item has the same text and subclass, or no tags.
    """
    out.mkdir(parents=True, exist_ok=True)
    place = _places(data.items)
    longest = data.cuts[1] + 1
    rows = [
        (str(user), place[item], longest - len(items) + n)
        for user, items in data.sequences.items()
        for n, item in enumerate(items)
    ]
    events = pl.DataFrame(
        rows, {"user_id": pl.String, "item_id": pl.Int64, "order": pl.Int64}, orient="row"
    )
    items = pl.DataFrame(
        {
            "item_id": [place[item.id] for item in data.items],
            "text": [item.text_id.strip() or UNKNOWN if text else UNKNOWN for item in data.items],
            "name": [item.text_id.strip() or item.asin for item in data.items],
            "subclass": [item.attrs[-1] if item.attrs and tags else UNKNOWN for item in data.items],
            "tags": pl.Series(
                [list(item.attrs) if tags else [] for item in data.items], dtype=pl.List(pl.String)
            ),
        }
    ).sort("item_id")
    for name, table in (("events", events), ("items", items)):
        table.rechunk().write_parquet(out / f"{name}.parquet")
    (out / "shop.json").write_text(json.dumps({"name": data.name}) + "\n", encoding="utf-8")
    return out


def _places(items: list[AmazonItem]) -> dict[int, int]:
    """Rank of each item's hashed ASIN, by id."""
    ordered = sorted(items, key=lambda item: hashlib.sha256(item.asin.encode()).digest())
    return {item.id: place for place, item in enumerate(ordered)}


def _read_items(path: Path) -> list[AmazonItem]:
    items: list[AmazonItem] = []
    seen: dict[str, dict[object, int]] = {"id": {}, "asin": {}}
    for n, line in _lines(path):
        try:
            item = AmazonItem.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise DataError(f"{path.name} line {n}: {key or 'item'}: {first['msg']}") from error
        for key, value in (("id", item.id), ("asin", item.asin)):
            if value in seen[key]:
                raise DataError(
                    f"{path.name} line {n}: {key}: expected a value only once "
                    f"(first in line {seen[key][value]}), got {value!r}"
                )
            seen[key][value] = n
        items.append(item)
    return items


def _read_sequences(path: Path, items: list[AmazonItem]) -> dict[int, list[int]]:
    known = {item.id for item in items}
    sequences: dict[int, list[int]] = {}
    for n, line in _lines(path):
        try:
            user, *sequence = map(int, line.split())
        except ValueError:
            raise DataError(
                f"{path.name} line {n}: expected integers: user item item …, got {line[:40]!r}"
            ) from None
        if user in sequences:
            raise DataError(f"{path.name} line {n}: expected a user only once, got {user} again")
        if len(sequence) < MIN_EVENTS:
            raise DataError(
                f"{path.name} line {n}: expected at least {MIN_EVENTS} items of user {user}, "
                f"got {len(sequence)}"
            )
        unknown = next((item for item in sequence if item not in known), None)
        if unknown is not None:
            raise DataError(
                f"{path.name} line {n}: expected items of the .items.jsonl beside it, got {unknown}"
            )
        sequences[user] = sequence
    return sequences


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that is not empty, counted from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: expected a readable file in UTF-8: {error}") from error
    if not lines:
        raise DataError(f"{path.name}: expected at least one line, got none")
    return list(enumerate(lines, start=1))
