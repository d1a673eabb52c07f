"""Reading one Parquet file of a shop: which columns, of which kind, with which errors.

Every refusal names file, row (counted from 0, as data frames do) and column, what was expected and
what came.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from engine.errors import DataError

Kind = Literal[
    "id", "item", "time", "order", "string", "strings", "bool", "integer", "number", "date"
]

END_S = 4_102_444_800  # 2100-01-01; a later time is one in milliseconds
_NAMES: dict[Kind, str] = {
    "id": "a string or an integer",
    "item": "an integer",
    "time": "unix seconds as an integer, or a timestamp",
    "order": "an integer",
    "string": "a string",
    "strings": "a list of strings",
    "bool": "a bool",
    "integer": "an integer",
    "number": "a number",
    "date": "a date",
}


@dataclass(frozen=True)
class Column:
    """What a column must be; `nullable` means that a null says "unknown" or "always"."""

    name: str
    kind: Kind
    required: bool = True
    nullable: bool = False


def read_parquet(path: Path) -> pl.DataFrame:
    """The whole file. Raises DataError where it is missing or no Parquet."""
    if not path.is_file():
        raise DataError(f"{path}: expected a Parquet file, got none")
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: expected a Parquet file: {error}") from error


def checked(
    frame: pl.DataFrame, columns: list[Column], file: str, *, others: bool
) -> dict[str, pl.Series]:
    """The columns by name, converted to one type per kind.

    Args:
        others: whether the file may hold further columns (they are not returned).
    Raises:
        DataError: a column is missing, unknown, of a wrong type, or holds a value out of its kind.
    """
    known = [column.name for column in columns]
    for column in columns:
        if column.required and column.name not in frame.columns:
            raise DataError(
                f"{file} column {column.name}: expected {_NAMES[column.kind]}, got no such column "
                f"(columns: {', '.join(frame.columns)})"
            )
    unknown = [name for name in frame.columns if name not in known]
    if unknown and not others:
        raise DataError(
            f"{file} column {unknown[0]}: expected only {', '.join(known)}, got an unknown column"
        )
    return {
        column.name: convert(frame[column.name], column, file)
        for column in columns
        if column.name in frame.columns
    }


def convert(series: pl.Series, column: Column, file: str) -> pl.Series:
    """`series` as String, Int64, Float64, Boolean, Date or List(String), whole and in range."""
    expected = _NAMES[column.kind]
    converted = _cast(series, column.kind)
    if converted is None:
        raise DataError(f"{file} column {column.name}: expected {expected}, got {series.dtype}")
    if not column.nullable:
        refuse_where(series.is_null(), series, file, column.name, expected)
    lost = converted.is_null() & series.is_not_null()
    refuse_where(lost, series, file, column.name, f"{expected} within 64 bits")
    match column.kind:
        case "id":
            bad = (converted == "") | converted.str.contains("\0", literal=True)
            refuse_where(bad, series, file, column.name, "a name without NUL, not empty")
        case "string" if not column.nullable:
            refuse_where(converted.str.strip_chars() == "", series, file, column.name, "no blank")
        case "item" | "order":
            refuse_where(converted < 0, series, file, column.name, "an integer of at least 0")
        case "time":
            bad = (converted < 0) | (converted >= END_S)
            refuse_where(bad, series, file, column.name, "unix seconds from 1970 to 2100")
        case "number":
            refuse_where(~converted.is_finite(), series, file, column.name, "a finite number")
        case "strings":
            holes = converted.list.eval(pl.element().is_null()).list.any()
            refuse_where(holes, series, file, column.name, "a list without nulls")
    return converted


def refuse_where(bad: pl.Series, values: pl.Series, file: str, column: str, expected: str) -> None:
    """Raises DataError for the first row where `bad` is true; a null in `bad` is false."""
    bad = bad.fill_null(False)
    if bad.any():
        row = bad.arg_max()
        assert row is not None
        raise refusal(file, row, column, expected, values[row])


def refusal(file: str, row: int, column: str, expected: str, got: Any) -> DataError:
    """The error of one cell."""
    return DataError(f"{file} row {row} column {column}: expected {expected}, got {got!r}")


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column holds strings, however it is encoded."""
    return isinstance(dtype, (pl.String, pl.Categorical, pl.Enum))


def _cast(series: pl.Series, kind: Kind) -> pl.Series | None:
    """`series` in the kind's type, null where a value does not fit; None for a wrong type."""
    dtype = series.dtype
    match kind:
        case "id" if dtype.is_integer() or is_text(dtype):
            return series.cast(pl.String)
        case "string" if is_text(dtype):
            return series.cast(pl.String)
        case "item" | "order" | "integer" | "time" if dtype.is_integer():
            return series.cast(pl.Int64, strict=False)
        case "time" if isinstance(dtype, pl.Datetime):
            return series.dt.epoch("s")  # a naive timestamp is UTC
        case "number" if dtype.is_numeric() or isinstance(dtype, pl.Boolean):
            return series.cast(pl.Float64, strict=False)
        case "bool" if isinstance(dtype, pl.Boolean):
            return series
        case "date" if isinstance(dtype, pl.Date):
            return series
        case "strings" if isinstance(dtype, pl.List) and is_text(dtype.inner):  # type: ignore[arg-type]
            return series.cast(pl.List(pl.String))
    return None
