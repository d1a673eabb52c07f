"""Anchors: what an author's streams are about, one text a field, each from the time it holds.

| column | type | meaning |
|---|---|---|
| `author_id` | integer >= 0 | whose |
| `time` | integer or timestamp | unix seconds, from when the text holds; once an author |
| the six of `FIELDS` | string | one text each; null or blank is nothing known |
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.data.schema import Column, checked, refuse_where
from engine.errors import DataError

from ..data.impressions import Impressions

FIELDS = ("point_of_interest", "theme", "topic", "audience", "format", "scene")
LIVE = {
    "theme": "{live_content_category}",
    "audience": "streamer of {streamer_fans_user_num} fans",
    "format": "live type {live_type}",
}
SHORT_VIDEO = {"format": "short video of {length} seconds"}
_KEYS = [Column("author_id", "item"), Column("time", "time")]
_YEARS = 2**32  # seconds; above any time of the schema


def checked_anchors(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """The table in order of author and time, its texts stripped, none null.

    Raises:
        DataError: a column missing, unknown or of another type; one time twice for an author.
    """
    texts = [Column(name, "string", nullable=True) for name in FIELDS]
    known = checked(frame, [*_KEYS, *texts], file, others=False)
    twice = pl.DataFrame(known).select(pl.struct("author_id", "time").is_duplicated()).to_series()
    refuse_where(twice, known["author_id"], file, "author_id", "one anchor for each time")
    return (
        pl.DataFrame(known)
        .with_columns(pl.col(FIELDS).fill_null("").str.strip_chars())
        .sort("author_id", "time")
    )


def templated(metadata: pl.DataFrame, templates: Mapping[str, str]) -> pl.DataFrame:
    """Anchors without a language model: metadata put into sentences.

    Args:
        metadata: author_id, time and the columns that the templates name.
        templates: field -> text with `{column}` in it. A text of a null is empty, a field without
            a template too. Rows that change nothing for their author are left out.
    Raises:
        DataError: a field or a column that there is not.
    """
    if unknown := set(templates) - set(FIELDS):
        raise DataError(
            f"anchors: templates: expected fields of {list(FIELDS)}, got {sorted(unknown)}"
        )
    texts = [
        _filled(templates[name], metadata.columns).alias(name)
        if name in templates
        else pl.lit("").alias(name)
        for name in FIELDS
    ]
    frame = metadata.select("author_id", "time", *texts).unique(["author_id", "time"], keep="last")
    frame = checked_anchors(frame, "metadata")
    before = pl.struct(FIELDS).shift().over("author_id")
    return frame.filter(pl.struct(FIELDS).ne_missing(before))


def author_column(log: Impressions) -> str:
    """`streamer_id` where the log has it, else `item_id`: whose content an impression shows."""
    return "streamer_id" if "streamer_id" in log.features else "item_id"


def metadata_of(log: Impressions) -> pl.DataFrame:
    """What a log tells of its authors, at each of their impressions; `length` is the duration
    rounded up to steps that double, in seconds."""
    frame = log.frame.rename({author_column(log): "author_id"})
    if "duration_ms" in frame.columns:
        steps = (pl.col("duration_ms").clip(1000) / 1000).log(2).ceil()
        frame = frame.with_columns(length=pl.lit(2).pow(steps).cast(pl.Int64))
    return frame


def in_force(
    anchors: pl.DataFrame, author: NDArray[np.int64], time: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Row of `anchors` that holds for each author and time, -1 where none does.

    Args:
        anchors: in order of author and time, as `checked_anchors` gives it.
        author, time: [n].
    """
    ids = anchors["author_id"].to_numpy()
    if not len(ids):
        return np.full(len(author), -1, np.int64)
    known = np.unique(ids)
    place = np.searchsorted(known, author)
    is_known = known[np.minimum(place, len(known) - 1)] == author
    held = np.searchsorted(known, ids) * _YEARS + anchors["time"].to_numpy()
    row = np.searchsorted(held, place * _YEARS + time, side="right") - 1
    same = (row >= 0) & (ids[np.maximum(row, 0)] == author)
    found: NDArray[np.int64] = np.where(is_known & same, row, -1)
    return found


def _filled(template: str, columns: list[str]) -> pl.Expr:
    """The template with each `{column}` replaced by its value as text, null where one is null."""
    parts: list[pl.Expr] = []
    for piece in template.split("{"):
        name, closed, rest = piece.partition("}")
        if not closed:
            parts.append(pl.lit(piece))
            continue
        if name not in columns:
            raise DataError(f"anchors: templates: expected a column {name}, got none")
        parts += [pl.col(name).cast(pl.String), pl.lit(rest)]
    return pl.concat_str(parts)
