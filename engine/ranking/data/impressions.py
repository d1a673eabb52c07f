"""What was shown, and everything that came of it: the schema that a ranker learns from.

| column | type | meaning |
|---|---|---|
| `request_id` | string or integer | what was ranked together; of one user |
| `user_id` | string or integer | who |
| `item_id` | integer >= 0 | what was shown |
| `time` | integer or timestamp | unix seconds; a timestamp without a zone is UTC |
| `label_*` | bool | one objective each, at least one: whether it happened |
| `outcome_*` | number, null for none | known only afterwards: a target, never an input |
| any other | string, number, bool | a feature, known when it was shown; null is unknown |
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.data.schema import Column, checked, read_parquet, refusal
from engine.errors import DataError

LABEL, OUTCOME = "label_", "outcome_"
_KEYS = [
    Column("request_id", "id"),
    Column("user_id", "id"),
    Column("item_id", "item"),
    Column("time", "time"),
]


@dataclass(frozen=True)
class Impressions:
    """Rows of the schema in order of time, those of one time as they came."""

    frame: pl.DataFrame

    @classmethod
    def read(cls, path: Path) -> "Impressions":
        """A Parquet file. Raises DataError as `of` does, and where there is no such file."""
        return cls.of(read_parquet(path), str(path))

    @classmethod
    def of(cls, frame: pl.DataFrame, file: str) -> "Impressions":
        """A frame, checked against the schema; `file` is how errors call it.

        Raises:
            DataError: a column missing or of another type, no label, a request of two users; names
                file, row and column, what was expected and what came.
        """
        labels = [Column(name, "bool") for name in frame.columns if name.startswith(LABEL)]
        if not labels:
            raise DataError(
                f"{file}: expected a column {LABEL}* for each objective, got none"
                f" (columns: {', '.join(frame.columns)})"
            )
        outcomes = [
            Column(name, "number", nullable=True)
            for name in frame.columns
            if name.startswith(OUTCOME)
        ]
        known = checked(frame, [*_KEYS, *labels, *outcomes], file, others=True)
        whole = frame.with_columns(**known)
        users = whole.select((pl.col("user_id") != pl.col("user_id").first()).over("request_id"))
        if (other := users.to_series()).any():
            row = other.arg_max()
            assert row is not None
            request, user = whole["request_id"][row], whole["user_id"][row]
            expected = f"the user of request {request!r}'s first row"
            raise refusal(file, row, "user_id", expected, user)
        return cls(whole.sort("time", maintain_order=True))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the labels, without their prefix."""
        return tuple(c.removeprefix(LABEL) for c in self.frame.columns if c.startswith(LABEL))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that a model may read besides user and item."""
        keys = {column.name for column in _KEYS}
        return tuple(
            c for c in self.frame.columns if c not in keys and not c.startswith((LABEL, OUTCOME))
        )

    @property
    def labels(self) -> NDArray[np.bool_]:
        """[n, M]."""
        return self.frame.select(pl.col(f"^{LABEL}.*$")).to_numpy()

    @property
    def request(self) -> NDArray[np.int64]:
        """[n] in 0..Q - 1, in order of the ids as text."""
        return _dense(self.frame["request_id"])

    @property
    def user(self) -> NDArray[np.int64]:
        """[n] in 0..U - 1, in order of the ids as text."""
        return _dense(self.frame["user_id"])

    @property
    def item(self) -> NDArray[np.int64]:
        """[n] ids."""
        return self.frame["item_id"].to_numpy()

    @property
    def time(self) -> NDArray[np.int64]:
        """[n] unix seconds, ascending."""
        return self.frame["time"].to_numpy()

    def between(self, start: int, end: int) -> "Impressions":
        """Rows of whole requests that begin in [start, end): none is in two parts of a split."""
        first = pl.col("time").min().over("request_id")
        return Impressions(self.frame.filter((first >= start) & (first < end)))


def _dense(ids: pl.Series) -> NDArray[np.int64]:
    return (ids.rank("dense").cast(pl.Int64) - 1).to_numpy()
