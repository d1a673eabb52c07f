import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.data.amazon import Amazon, write_shop
from engine.errors import DataError

ITEMS = [
    {"id": 1, "asin": "B001", "text_id": "red nail polish", "attrs": ["OPI", "Nails"]},
    {"id": 2, "asin": "B002", "text_id": "", "attrs": []},
    {"id": 3, "asin": "B003", "text_id": "soap", "attr_ids": [7], "attrs": ["Skin Care", "Soap"]},
    {"id": 4, "asin": "B004", "text_id": "comb", "attrs": ["Hair Care"]},
]
SEQUENCES = ["1 1 2 3", "2 4 3 2 1", "5 2 4 1"]


def folder_of(at: Path, sequences: list[str], items: list[dict[str, object]]) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    (at / "Toys.txt").write_text("".join(f"{line}\n" for line in sequences))
    (at / "Toys.items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return at


def read(
    at: Path, sequences: list[str] = SEQUENCES, items: list[dict[str, object]] = ITEMS
) -> Amazon:
    return Amazon.read(folder_of(at, sequences, items))


def test_the_last_items_of_everyone_stand_at_the_cuts(tmp_path: Path) -> None:
    data = read(tmp_path / "in")
    shop = write_shop(data, tmp_path / "shop")
    events = pl.read_parquet(shop / "events.parquet")
    ids = dict(pl.read_parquet(shop / "items.parquet").select("name", "item_id").iter_rows())
    names = {1: "red nail polish", 2: "B002", 3: "soap", 4: "comb"}
    validation, test = data.cuts
    assert (data.name, validation, test) == ("Toys", 2, 3)
    for line in SEQUENCES:
        user, *items = map(int, line.split())
        mine = events.filter(user_id=str(user)).sort("order")
        assert mine["item_id"].to_list() == [ids[names[item]] for item in items]
        assert mine["order"].to_list() == list(range(4 - len(items), 4))


def test_items_keep_their_content(tmp_path: Path) -> None:
    shop = write_shop(read(tmp_path / "in"), tmp_path / "shop")
    rows = {
        row["name"]: row for row in pl.read_parquet(shop / "items.parquet").iter_rows(named=True)
    }
    assert rows["red nail polish"]["tags"] == ["OPI", "Nails"]
    assert rows["red nail polish"]["subclass"] == "Nails"
    assert rows["B002"] == {
        "item_id": rows["B002"]["item_id"], "text": "unknown", "name": "B002",
        "subclass": "unknown", "tags": [],
    }  # fmt: skip
    bare = write_shop(read(tmp_path / "in"), tmp_path / "bare", text=False, tags=False)
    table = pl.read_parquet(bare / "items.parquet")
    assert set(table["text"]) == set(table["subclass"]) == {"unknown"}
    assert table["tags"].list.len().sum() == 0


def test_the_numbers_of_the_source_reach_nobody(tmp_path: Path) -> None:
    """Items numbered otherwise, in another order of lines, give the same files."""
    rng = random.Random(3)
    new = dict(zip(range(1, 5), rng.sample(range(1, 900), 4), strict=True))
    items = [{**item, "id": new[int(str(item["id"]))]} for item in rng.sample(ITEMS, 4)]
    lines = []
    for line in SEQUENCES:
        user, *sequence = map(int, line.split())
        lines.append(" ".join(map(str, [user, *(new[item] for item in sequence)])))
    one = write_shop(read(tmp_path / "in"), tmp_path / "one")
    other = write_shop(read(tmp_path / "again", lines, items), tmp_path / "other")
    for name in ("events.parquet", "items.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    # Nor does their order: ids are no rank of the ASIN's spelling either.
    many = [{"id": n, "asin": f"B{n:04}", "text_id": f"t{n}", "attrs": []} for n in range(1, 400)]
    shop = write_shop(read(tmp_path / "many", ["1 1 2 3"], many), tmp_path / "wide")
    table = pl.read_parquet(shop / "items.parquet")
    place = table["name"].str.slice(1).cast(pl.Int64).to_numpy()
    assert abs(np.corrcoef(place, table["item_id"].to_numpy())[0, 1]) < 0.2


WRONG = [
    (["1 2"], ITEMS, r"Toys\.txt line 1: expected at least 3 items of user 1, got 1"),
    (["1 1 2 3", "1 1 2 3"], ITEMS, r"Toys\.txt line 2: expected a user only once, got 1 again"),
    (["1 1 2 9"], ITEMS, r"Toys\.txt line 1: expected items of the \.items\.jsonl .+, got 9"),
    (["1 1 2 3", "2 a 3 4"], ITEMS, r"Toys\.txt line 2: expected integers: .+, got '2 a 3 4'"),
    (["1 1 2 3", ""], ITEMS, r"Toys\.txt line 2: expected integers: .+, got ''"),
    ([], ITEMS, r"Toys\.txt: expected at least one line, got none"),
    (SEQUENCES, [*ITEMS, ITEMS[0]], r"jsonl line 5: id: expected a value only once .+line 1.+ 1$"),
    (
        SEQUENCES,
        [*ITEMS, {**ITEMS[0], "id": 9}],
        r"jsonl line 5: asin: expected a value only once \(first in line 1\), got 'B001'",
    ),
    (SEQUENCES, [{"id": 1, "asin": "B1", "attrs": []}], r"jsonl line 1: text_id: Field required"),
    (SEQUENCES, [{**ITEMS[0], "id": "1"}], r"jsonl line 1: id: Input should be a valid integer"),
    (SEQUENCES, [{**ITEMS[0], "attrs": "OPI"}], r"jsonl line 1: attrs: Input should be a valid"),
    (SEQUENCES, [{**ITEMS[0], "attrs": [1]}], r"jsonl line 1: attrs\.0: Input should be a valid"),
    (SEQUENCES, [{**ITEMS[0], "id": 0}], r"jsonl line 1: id: .+ greater than or equal to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("sequences", "items", "message"), WRONG)
def test_what_breaks_the_form_is_named(
    tmp_path: Path, sequences: list[str], items: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, sequences, items)


def test_files_that_are_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one file <Name>\.items\.jsonl, got none"):
        Amazon.read(tmp_path)
    folder = folder_of(tmp_path / "two", SEQUENCES, ITEMS)
    (folder / "Beauty.items.jsonl").write_text("{}\n")
    expected = r"got Beauty\.items\.jsonl, Toys\.items\.jsonl"
    with pytest.raises(DataError, match=expected):
        Amazon.read(folder)
    (folder / "Beauty.items.jsonl").unlink()
    (folder / "Toys.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"Toys\.txt: expected a readable file in UTF-8"):
        Amazon.read(folder)
    (folder / "Toys.txt").unlink()
    with pytest.raises(DataError, match=r"Toys\.txt: expected a readable file"):
        Amazon.read(folder)
    (folder / "Toys.items.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"Toys\.items\.jsonl line 1: item: Invalid JSON"):
        Amazon.read(folder)
