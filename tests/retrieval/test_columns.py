import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BundleError, DataError
from engine.retrieval.columns import ARRAYS_FILE, NAMES_FILE, Columns

VALUES = {
    "brand": ["b", None, "", "ä", "b"],
    "size": [3, None, -(2**63), 2**63 - 1, 0],
    "price": [1.5, float("nan"), None, 2, -0.0],
    "organic": [True, False, None, True, False],
    "note": [None] * 5,
}


def test_kinds_nulls_and_dictionary() -> None:
    columns = Columns.from_values(VALUES, 5)
    assert {name: column.kind for name, column in columns.items()} == {
        "brand": "string",
        "size": "int",
        "price": "float",
        "organic": "bool",
        "note": "string",
    }
    assert columns["brand"].strings == ("", "b", "ä")
    assert columns["brand"].data.tolist() == [1, -1, 0, 2, 1]
    assert columns["brand"].data.dtype == np.int32
    assert columns["price"].valid.tolist() == [True, False, False, True, True]
    assert columns["brand"].take([4, 1, 3]) == ["b", None, "ä"]
    assert columns["size"].take(np.array([1, 2, 3])) == [None, -(2**63), 2**63 - 1]
    assert columns["note"].take([0]) == [None]


def test_saved_columns_load_again(tmp_path: Path) -> None:
    columns = Columns.from_values(VALUES, 5)
    columns.save(tmp_path)
    loaded = Columns.load(tmp_path)
    assert list(loaded) == list(columns)
    assert loaded.n_items == 5
    for name, column in columns.items():
        assert loaded[name].kind == column.kind
        assert loaded[name].strings == column.strings
        assert loaded[name].take(range(5)) == column.take(range(5))


def test_no_columns_and_no_items_are_fine(tmp_path: Path) -> None:
    for columns in (Columns({}, 7), Columns.from_values({"brand": []}, 0)):
        columns.save(tmp_path)
        assert Columns.load(tmp_path).n_items == columns.n_items


def test_values_that_no_column_can_hold_are_refused() -> None:
    with pytest.raises(DataError, match="'tags': row 1: expected string, int, float, bool or null"):
        Columns.from_values({"tags": [None, ["a"]]}, 2)  # type: ignore[list-item]
    with pytest.raises(DataError, match="'x': row 2: expected int as above, got string 'a'"):
        Columns.from_values({"x": [1, None, "a"]}, 3)
    with pytest.raises(DataError, match="'x': row 1: expected int as above, got bool True"):
        Columns.from_values({"x": [1, True]}, 2)
    with pytest.raises(DataError, match="'x': expected integers of 64 bits"):
        Columns.from_values({"x": [2**63]}, 1)
    with pytest.raises(DataError, match="'x': expected 2 values, got 1"):
        Columns.from_values({"x": [1]}, 2)
    with pytest.raises(DataError, match="expected names other than and, or, not, got 'or'"):
        Columns.from_values({"or": [1]}, 1)


def test_updated_values_replace_those_of_some_items() -> None:
    columns = Columns.from_values(VALUES, 5)
    updated = columns.updated(
        {
            "brand": {0: "a", 1: "b", 4: None},
            "size": {0: None, 1: 7},
            "price": {0: 3, 2: float("nan"), 3: 0.5},
            "organic": {2: True, 0: None},
            "note": {},
        }
    )
    assert updated["brand"].take(range(5)) == ["a", "b", "", "ä", None]
    assert updated["brand"].strings == ("", "a", "b", "ä")
    assert updated["size"].take(range(5)) == [None, 7, -(2**63), 2**63 - 1, 0]
    assert updated["price"].take(range(5)) == [3.0, None, None, 0.5, -0.0]
    assert updated["organic"].take(range(5)) == [None, False, True, True, False]
    assert updated["note"] is columns["note"]
    assert columns["brand"].take(range(5)) == VALUES["brand"], "columns never change"
    assert columns["size"].take(range(5)) == VALUES["size"]
    same = Columns.from_values({name: updated[name].take(range(5)) for name in updated}, 5)
    for name in ("size", "price", "organic"):
        assert same[name].data[same[name].valid].tolist() == (
            updated[name].data[updated[name].valid].tolist()
        )
        assert updated[name].data.dtype == same[name].data.dtype


def test_an_update_can_null_a_column_and_name_it_again(tmp_path: Path) -> None:
    columns = Columns.from_values(VALUES, 5)
    columns = columns.updated({"brand": dict.fromkeys(range(5)), "note": {1: "new"}})
    columns.save(tmp_path)  # what is loaded is checked: dtypes, flags and codes fit together
    loaded = Columns.load(tmp_path)
    assert loaded["brand"].take(range(5)) == [None] * 5
    assert loaded["note"].take(range(5)) == [None, "new", None, None, None]


def test_updates_that_do_not_fit_are_refused() -> None:
    columns = Columns.from_values(VALUES, 5)
    with pytest.raises(DataError, match=r"expected one of brand, size, .*, got 'stock'"):
        columns.updated({"stock": {0: 1}})
    for item in (-1, 5):
        with pytest.raises(DataError, match=f"'size': expected items from 0 to 4, got {item}"):
            columns.updated({"size": {item: 1}})
    with pytest.raises(DataError, match=r"'size': item 3: expected int or null, got float 1.5"):
        columns.updated({"size": {1: 2, 3: 1.5}})
    with pytest.raises(DataError, match="'size': item 0: expected int or null, got bool True"):
        columns.updated({"size": {0: True}})
    with pytest.raises(DataError, match="'brand': item 0: expected string or null, got list"):
        columns.updated({"brand": {0: ["a"]}})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="'size': expected integers of 64 bits"):
        columns.updated({"size": {0: 2**63}})


def damage(folder: Path, **changes: object) -> None:
    described = json.loads((folder / NAMES_FILE).read_text())
    described[0] |= changes
    (folder / NAMES_FILE).write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "int"}, r"'brand' with \[5\] int32, not \[5\]"),
        ({"kind": "date"}, "'date'"),
        ({"strings": ["a"]}, "'brand' with a code outside its 1 strings"),
        ({"name": "and"}, "got 'and'"),
        ({"name": ["a"]}, "unhashable"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    Columns.from_values(VALUES, 5).save(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(
        BundleError, match=rf"{ARRAYS_FILE} and .*expected item columns, .*{reason}"
    ):
        Columns.load(tmp_path)


def test_flags_of_another_length_are_refused(tmp_path: Path) -> None:
    columns = Columns.from_values({"price": [1.5, 2.5]}, 2)
    object.__setattr__(columns["price"], "valid", np.ones(3, bool))
    columns.save(tmp_path)
    with pytest.raises(BundleError, match="'price' without a valid flag for each of 2 items"):
        Columns.load(tmp_path)


@pytest.mark.parametrize("name", [ARRAYS_FILE, NAMES_FILE])
def test_unreadable_or_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    Columns.from_values(VALUES, 5).save(tmp_path)
    (tmp_path / name).write_bytes(b"\x00\x01 not this")
    with pytest.raises(BundleError, match="expected item columns"):
        Columns.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=r"expected item columns, got .*No such file"):
        Columns.load(tmp_path)
