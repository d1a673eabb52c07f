"""Reading the text files that public datasets come as."""

from pathlib import Path

import polars as pl

from engine.data.schema import Column, checked, refuse_where
from engine.errors import DataError


def read_table(
    path: Path, columns: list[Column], *, separator: str = ",", others: bool = False
) -> pl.DataFrame:
    """The columns of a file with a header, then, where `others`, the rest as they are.

    Raises:
        DataError: no such file, no such table, or a column out of its kind.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a table with a header, got none")
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: expected a table with a header: {error}") from error
    known = pl.DataFrame(checked(frame, columns, str(path), others=True))
    return pl.concat([known, frame.drop(known.columns)], how="horizontal") if others else known


def flag(frame: pl.DataFrame, column: str, file: str) -> pl.Series:
    """A column of 0 and 1 as bool. Raises DataError for another value."""
    values = frame[column]
    refuse_where(~values.is_in([0, 1]), values, file, column, "0 or 1")
    return values.cast(pl.Boolean)


def unique(frame: pl.DataFrame, column: str, file: str) -> pl.DataFrame:
    """The frame itself. Raises DataError where a value of the column comes twice."""
    repeated = ~frame[column].is_first_distinct()
    refuse_where(repeated, frame[column], file, column, "each value once")
    return frame
