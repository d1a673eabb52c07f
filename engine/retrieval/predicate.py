"""The filter language: a JSON predicate over item columns, checked, then evaluated to a mask.

    {"and": [...]}  {"or": [...]}  {"not": ...}  {"<column>": {"eq|ne|in|lt|le|gt|ge": value}}

Several entries of one object are joined by and. A null value matches no comparison; `{"eq": null}`
and a null in an `in` list match it, `{"ne": null}` matches what is not null. `not` is the plain
complement. Integer columns compare exactly with every finite number, float columns as float64.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError

from .columns import Column, Columns, Scalar

# The worst found that fits in takes 18 ms on 68,000 items (one core), once: its mask is kept.
MAX_CHARACTERS, MAX_DEPTH, MAX_COMPARISONS = 65_536, 16, 64
EQUALITY = ("eq", "ne", "in")
ORDER = ("lt", "le", "gt", "ge")
_EXPECTED = {"string": "a string", "bool": "true or false", "int": "a number", "float": "a number"}
_INT64 = np.iinfo(np.int64)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Predicate:
    """A predicate that was checked against the columns.

    Attributes:
        canonical: one text for all spellings that differ only in spaces, order or repetition.
        columns: the columns that it reads.
        evaluate: gives [N] bool, True where the item qualifies.
    """

    canonical: str
    columns: frozenset[str]
    evaluate: Callable[[], Mask]


def compile_predicate(text: str, columns: Columns) -> Predicate:
    """Parses and checks `text`.

    Raises:
        RequestError: the text is not such a predicate, too long, too deep or of too many
            comparisons; the message points to the place ("filter.and[1].price.lt: expected …").
    """
    if len(text) > MAX_CHARACTERS:
        raise RequestError(f"filter: expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        parsed = json.loads(
            text, object_pairs_hook=_unique, parse_int=_integer, parse_constant=float
        )
    except json.JSONDecodeError as error:
        raise RequestError(f"filter: expected JSON, got {error}") from error
    except RecursionError as error:
        raise RequestError(_too_deep("filter")) from error
    return _Compiler(columns).predicate(parsed, "filter", 1)


class _Compiler:
    """Walks one parsed predicate; counts its comparisons."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._comparisons = 0

    def predicate(self, node: Any, path: str, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise RequestError(_too_deep(path))
        if not isinstance(node, dict) or not node:
            raise RequestError(
                f"{path}: expected an object of and, or, not or a column, got {_show(node)}"
            )
        parts = [self._entry(name, value, path, depth) for name, value in node.items()]
        return _join("and", parts, self._columns.n_items)

    def _entry(self, name: str, value: Any, path: str, depth: int) -> Predicate:
        here = f"{path}.{name}"
        if name == "not":
            return _negate(self.predicate(value, here, depth + 1))
        if name in ("and", "or"):
            if not isinstance(value, list):
                raise RequestError(f"{here}: expected a list of predicates, got {_show(value)}")
            parts = [
                self.predicate(part, f"{here}[{place}]", depth + 1)
                for place, part in enumerate(value)
            ]
            return _join(name, parts, self._columns.n_items)
        if name not in self._columns:
            known = ", ".join(self._columns) or "none"
            raise RequestError(
                f"{path}: expected and, or, not or a column ({known}), got {_show(name)}"
            )
        if not isinstance(value, dict) or not value:
            operators = ", ".join(_operators(self._columns[name]))
            raise RequestError(f"{here}: expected an object of {operators}, got {_show(value)}")
        parts = [self._comparison(name, operator, value[operator], here) for operator in value]
        return _join("and", parts, self._columns.n_items)

    def _comparison(self, name: str, operator: str, value: Any, path: str) -> Predicate:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise RequestError(f"filter: expected at most {MAX_COMPARISONS} comparisons, got more")
        column = self._columns[name]
        operators = _operators(column)
        if operator not in operators:
            raise RequestError(
                f"{path}: expected {', '.join(operators)} for {column.kind} values, "
                f"got {_show(operator)}"
            )
        here = f"{path}.{operator}"
        if operator == "in":
            if not isinstance(value, list):
                raise RequestError(f"{here}: expected a list, got {_show(value)}")
            for place, entry in enumerate(value):
                _check_value(column, entry, f"{here}[{place}]", nullable=True)
            known = sorted({entry for entry in value if entry is not None})
            value = [None, *known] if None in value else known
        else:
            _check_value(column, value, here, nullable=operator in EQUALITY)
        canonical = json.dumps([name, operator, value])
        return Predicate(canonical, frozenset({name}), lambda: _compare(column, operator, value))


def _join(word: str, parts: list[Predicate], n_items: int) -> Predicate:
    """All (and) or any (or) of the parts; no part at all is every item, or none."""
    unique = {part.canonical: part for part in parts}
    if len(unique) == 1:
        return parts[0]
    combine = np.logical_and if word == "and" else np.logical_or

    def evaluate() -> Mask:
        mask = np.full(n_items, word == "and", np.bool_)
        for part in unique.values():
            combine(mask, part.evaluate(), out=mask)
        return mask

    read = frozenset[str]().union(*(part.columns for part in unique.values()))
    return Predicate(f"{word}[{','.join(sorted(unique))}]", read, evaluate)


def _negate(part: Predicate) -> Predicate:
    return Predicate(f"not({part.canonical})", part.columns, lambda: ~part.evaluate())


def _compare(column: Column, operator: str, value: Any) -> Mask:
    """[N] bool of one comparison; the value was checked against the column's kind."""
    if operator == "in":
        return _any_of(column, value)
    if operator in EQUALITY:
        equal = _any_of(column, [value])
        if operator == "eq":
            return equal
        return ~equal if value is None else ~equal & column.valid
    if column.kind == "float":
        compared: Mask = getattr(np, _UFUNC[operator])(column.data, float(value))
        return compared & column.valid
    # At most m, in whole numbers: exact for numbers that float64 or int64 cannot hold.
    whole = math.floor(value) if operator in ("le", "gt") else math.ceil(value) - 1
    if whole < _INT64.min or whole >= _INT64.max:
        at_most = np.full(len(column.data), whole > 0, np.bool_)
    else:
        at_most = column.data <= whole
    return (at_most if operator in ("lt", "le") else ~at_most) & column.valid


_UFUNC = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}


def _any_of(column: Column, values: list[Scalar]) -> Mask:
    """[N] bool: the item's value is one of `values`, None for null."""
    known = [value for value in values if value is not None]
    if column.kind == "string":
        chosen = np.zeros(len(column.strings) + 1, np.bool_)  # the last for null, code -1
        chosen[[column.codes[text] for text in known if text in column.codes]] = True
        found: Mask = chosen[column.data]
    elif column.kind == "bool":
        found = np.isin(column.data, known) & column.valid
    else:
        found = _any_number(column, known) & column.valid
    return found | ~column.valid if None in values else found


def _any_number(column: Column, wanted: list[Any]) -> Mask:
    """[N] bool by binary searches, so that a long list costs little more than a short one."""
    if column.kind == "int":
        whole = [int(number) for number in wanted if int(number) == number]
        wanted = [number for number in whole if _INT64.min <= number <= _INT64.max]
    ascending, order = column.ascending
    numbers = np.array(wanted, column.data.dtype)
    starts = np.searchsorted(ascending, numbers, "left").tolist()
    ends = np.searchsorted(ascending, numbers, "right").tolist()
    found = np.zeros(len(column.data), np.bool_)
    for start, end in zip(starts, ends, strict=True):
        found[order[start:end]] = True
    return found


def _operators(column: Column) -> tuple[str, ...]:
    return EQUALITY + ORDER if column.kind in ("int", "float") else EQUALITY


def _check_value(column: Column, value: Any, path: str, *, nullable: bool) -> None:
    if value is None and nullable:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {"string": isinstance(value, str), "bool": isinstance(value, bool)}
    if not fits.get(column.kind, is_number):
        raise RequestError(f"{path}: expected {_EXPECTED[column.kind]}, got {_show(value)}")
    if is_number and not math.isfinite(value):
        raise RequestError(f"{path}: expected a finite number, got {value}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's last of two equal keys would win silently."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise RequestError(
                f"filter: expected each key once in an object, got {_show(key)} again"
            )
        result[key] = value
    return result


def _integer(text: str) -> int | float:
    """Integers of any length: Python refuses to parse more than a few thousand digits."""
    return int(text) if len(text) < 40 else float(text)


def _show(value: Any) -> str:
    """A value for a message, cut to a readable length; repr escapes what no encoding can hold."""
    text = repr(value) if value is not None else "null"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _too_deep(path: str) -> str:
    return f"{path}: expected at most {MAX_DEPTH} levels of and, or, not, got more"
