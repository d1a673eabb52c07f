"""Attribute tags of items: a vocabulary and, per item, the places of its tags in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

MIN_ITEMS = 5
_NO_TAXONOMY = ("item_id", "text", "name", "available_from", "tags")


class Tags(NamedTuple):
    """names: V tags, ascending. offsets: [N + 1] int64. ids: [nnz] int32, ascending per item."""

    names: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]


def item_tags(items: pl.DataFrame, min_items: int = MIN_ITEMS) -> Tags:
    """Tags of `items`: its `tags` column, or its taxonomy where it has none.

    The taxonomy is every string column but the name and the text, `subclass` included: a value
    becomes the tag `column=value`. Values are lower-cased and their white space is collapsed.

    Args:
        items: N rows; `tags` is a list of strings, null or empty for none.
        min_items: tags of fewer items are left out.
    """
    pairs = _pairs(items)
    pairs = pairs.filter(pl.len().over("tag") >= min_items)
    names = pairs["tag"].unique().sort().to_list()
    return _placed(pairs, names, items.height)


def known_tags(items: pl.DataFrame, names: list[str]) -> Tags:
    """As `item_tags`, but in a vocabulary that is given; other tags are left out."""
    return _placed(_pairs(items), names, items.height)


def _pairs(items: pl.DataFrame) -> pl.DataFrame:
    """Each (row, tag) once."""
    rows = pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
    if "tags" in items.columns:
        pairs = items.select(rows, tag="tags").explode("tag").select("row", _normal("tag"))
    else:
        columns = [
            name
            for name, dtype in items.schema.items()
            if dtype == pl.String and name not in _NO_TAXONOMY
        ]
        pairs = pl.concat(
            [
                items.select(rows, tag=_normal(name)).with_columns(
                    tag=pl.when(pl.col("tag") != "").then(pl.lit(f"{name}=") + pl.col("tag"))
                )
                for name in columns
            ]
            or [pl.DataFrame(schema={"row": pl.Int64, "tag": pl.String})]
        )
    return pairs.filter(pl.col("tag") != "").unique()


def _placed(pairs: pl.DataFrame, names: list[str], n_items: int) -> Tags:
    places = pl.DataFrame(
        {"tag": pl.Series(names, dtype=pl.String), "id": np.arange(len(names), dtype=np.int32)}
    )
    pairs = pairs.join(places, on="tag").sort("row", "id")
    counts = np.bincount(pairs["row"].to_numpy(), minlength=n_items)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Tags(names, offsets, pairs["id"].to_numpy().astype(np.int32))


def _normal(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
