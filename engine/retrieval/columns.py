"""Typed item columns that filters read: numpy arrays, strings as codes into a sorted dictionary."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from engine.errors import BundleError, DataError

Kind = Literal["string", "int", "float", "bool"]
Scalar = str | int | float | bool | None

ARRAYS_FILE, NAMES_FILE = "columns.safetensors", "columns.json"
RESERVED = ("and", "or", "not")  # the filter language's own words
_DTYPES: dict[Kind, type] = {
    "string": np.int32,
    "int": np.int64,
    "float": np.float64,
    "bool": np.bool_,
}
_KINDS: dict[type, Kind] = {str: "string", int: "int", float: "float", bool: "bool"}


@dataclass(frozen=True)
class Column:
    """One value or null for each item.

    Attributes:
        kind: what the values are.
        data: [N] int32 places in `strings`, -1 for null (string), int64, float64 or bool.
        valid: [N] bool, False where the value is null.
        strings: the distinct strings, ascending; empty for the other kinds.
    """

    kind: Kind
    data: NDArray[Any]
    valid: NDArray[np.bool_]
    strings: tuple[str, ...] = ()

    @cached_property
    def codes(self) -> dict[str, int]:
        """Place of each string in `strings`."""
        return {text: code for code, text in enumerate(self.strings)}

    @cached_property
    def ascending(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Values of `data`, ascending, and the items that hold them, [N] each."""
        order = np.argsort(self.data)
        return self.data[order], order

    def take(self, items: Sequence[int] | NDArray[np.int64]) -> list[Scalar]:
        """Values of some items, None where null."""
        rows = np.asarray(items, np.int64)
        found = zip(self.data[rows].tolist(), self.valid[rows].tolist(), strict=True)
        strings = self.strings if self.kind == "string" else None
        return [(strings[value] if strings else value) if known else None for value, known in found]


class Columns(Mapping[str, Column]):
    """The columns of N items by name, in the order in which they were given."""

    def __init__(self, columns: Mapping[str, Column], n_items: int) -> None:
        """Raises DataError for a column of another length or with a reserved name."""
        for name, column in columns.items():
            if name in RESERVED:
                raise DataError(
                    f"columns: expected names other than {', '.join(RESERVED)}, got {name!r}"
                )
            if len(column.data) != n_items:
                raise DataError(
                    f"columns: {name!r}: expected {n_items} values, got {len(column.data)}"
                )
        self.n_items = n_items
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @classmethod
    def from_values(cls, values: Mapping[str, Sequence[Scalar]], n_items: int) -> "Columns":
        """Columns of plain Python values, None or NaN for null.

        A column's kind is that of its values; int and float together are float, and a column
        without any value counts as string.

        Raises:
            DataError: a column mixes kinds or holds something else (named with its row), is not
                n_items long or has a reserved name.
        """
        return cls({name: _column(name, column) for name, column in values.items()}, n_items)

    def updated(self, changes: Mapping[str, Mapping[int, Scalar]]) -> "Columns":
        """Columns in which some items have other values; a column without changes is the same.

        Args:
            changes: by column, the new value by item index (not catalogue id), None for null.
        Raises:
            DataError: an unknown column, an item that is none, or a value of another kind than the
                column's; names column and item. Integers are welcome in float columns.
        """
        columns = dict(self._columns)
        for name, values in changes.items():
            if name not in columns:
                known = ", ".join(columns) or "none"
                raise DataError(f"columns: expected one of {known}, got {name!r}")
            if values:
                columns[name] = _changed(name, columns[name], values)
        return Columns(columns, self.n_items)

    def grown(self, n: int) -> "Columns":
        """Columns of `n` more items, null in each."""
        none = {"string": -1}
        columns = {
            name: replace(
                column,
                data=np.append(
                    column.data, np.full(n, none.get(column.kind, 0), column.data.dtype)
                ),
                valid=np.append(column.valid, np.zeros(n, np.bool_)),
            )
            for name, column in self.items()
        }
        return Columns(columns, self.n_items + n)

    def save(self, folder: Path) -> None:
        """Writes columns.safetensors and columns.json into `folder`."""
        described = [
            {"name": name, "kind": column.kind, "strings": column.strings}
            for name, column in self.items()
        ]
        arrays = {"n_items": np.array([self.n_items])}
        for place, column in enumerate(self.values()):
            arrays[f"{place}.data"], arrays[f"{place}.valid"] = column.data, column.valid
        save_file(arrays, folder / ARRAYS_FILE)
        (folder / NAMES_FILE).write_text(
            json.dumps(described, ensure_ascii=False), encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> "Columns":
        """Reads what `save` wrote.

        Raises:
            BundleError: a file is unreadable, or the two do not belong together.
        """
        try:
            described = json.loads((folder / NAMES_FILE).read_bytes())
            arrays = load_file(folder / ARRAYS_FILE)
            n_items = int(arrays["n_items"][0])
            columns = {
                entry["name"]: Column(
                    kind=entry["kind"],
                    data=arrays[f"{place}.data"],
                    valid=arrays[f"{place}.valid"],
                    strings=tuple(entry["strings"]),
                )
                for place, entry in enumerate(described)
            }
            for name, column in columns.items():
                _check_stored(name, column, n_items)
            return cls(columns, n_items)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, DataError) as error:
            raise BundleError(
                f"{folder / ARRAYS_FILE} and {NAMES_FILE}: expected item columns, got {error}"
            ) from error


def _column(name: str, values: Sequence[Scalar]) -> Column:
    """One column of plain values (None or NaN for null)."""
    kind = _common_kind(name, values)
    known = [value is not None and value == value for value in values]  # NaN differs from itself
    valid = np.array(known, np.bool_)
    if kind == "string":
        strings = tuple(sorted({str(value) for value in values if value is not None}))
        codes = {text: code for code, text in enumerate(strings)}
        found = [-1 if value is None else codes[str(value)] for value in values]
        return Column(kind, np.array(found, np.int32), valid, strings)
    filled = [value if ok else 0 for value, ok in zip(values, known, strict=True)]
    try:
        return Column(kind, np.array(filled, _DTYPES[kind]), valid)
    except OverflowError as error:
        raise DataError(f"columns: {name!r}: expected integers of 64 bits, got {error}") from error


def _common_kind(name: str, values: Sequence[Scalar]) -> Kind:
    """Kind of all values: float where int and float are mixed, string where all are null."""
    kind: Kind | None = None
    for row, value in enumerate(values):
        if value is None:
            continue
        found = _KINDS.get(type(value))
        if found is None:
            raise DataError(
                f"columns: {name!r}: row {row}: expected string, int, float, bool or null, "
                f"got {type(value).__name__}"
            )
        if kind is None or kind == found:
            kind = found
        elif {kind, found} == {"int", "float"}:
            kind = "float"
        else:
            raise DataError(
                f"columns: {name!r}: row {row}: expected {kind} as above, got {found} {value!r}"
            )
    return kind or "string"


def _changed(name: str, column: Column, values: Mapping[int, Scalar]) -> Column:
    """A copy of `column` with other values of some items."""
    n_items = len(column.data)
    for item, value in values.items():
        if not 0 <= item < n_items:
            raise DataError(
                f"columns: {name!r}: expected items from 0 to {n_items - 1}, got {item}"
            )
        kind = _KINDS.get(type(value))
        fits = value is None or kind == column.kind or (kind, column.kind) == ("int", "float")
        if not fits:
            raise DataError(
                f"columns: {name!r}: item {item}: expected {column.kind} or null, "
                f"got {type(value).__name__} {value!r}"
            )
    new = _column(name, [*values.values()])  # its kind is the values' own; the data are cast below
    items = np.fromiter(values, np.int64, len(values))
    data, valid, strings = column.data.copy(), column.valid.copy(), column.strings
    valid[items] = new.valid
    if column.kind == "string":
        strings = tuple(sorted({*column.strings, *new.strings}))
        codes = {text: code for code, text in enumerate(strings)}
        # The last place is that of code -1, null.
        data = np.array([*(codes[text] for text in column.strings), -1], np.int32)[data]
        data[items] = np.array([*(codes[text] for text in new.strings), -1], np.int32)[new.data]
    else:
        data[items] = np.where(new.valid, new.data, 0)
    return Column(column.kind, data, valid, strings)


def _check_stored(name: str, column: Column, n_items: int) -> None:
    """Raises ValueError unless lengths, dtypes and codes fit together."""
    dtype = _DTYPES[column.kind]
    if column.data.dtype != dtype or column.data.shape != (n_items,):
        raise ValueError(
            f"{name!r} with {list(column.data.shape)} {column.data.dtype}, not [{n_items}] {dtype}"
        )
    if column.valid.dtype != np.bool_ or column.valid.shape != (n_items,):
        raise ValueError(f"{name!r} without a valid flag for each of {n_items} items")
    if column.kind == "string" and not np.array_equal(
        column.valid, (column.data >= 0) & (column.data < len(column.strings))
    ):
        raise ValueError(f"{name!r} with a code outside its {len(column.strings)} strings")
