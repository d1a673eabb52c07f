import numpy as np
import polars as pl

from engine.data.tags import Tags, item_tags


def lists(tags: Tags) -> list[list[str]]:
    return [
        [tags.names[i] for i in tags.ids[start:end]]
        for start, end in zip(tags.offsets[:-1], tags.offsets[1:], strict=True)
    ]


def frame(**columns: object) -> pl.DataFrame:
    n = len(next(iter(columns.values())))  # type: ignore[call-overload]
    fixed = {"item_id": range(n), "text": ["same"] * n, "name": ["same"] * n}
    return pl.DataFrame({**fixed, **columns}, strict=False)


def test_the_taxonomy_is_every_string_column_but_name_and_text() -> None:
    items = frame(
        subclass=["tea", "tea", "oat"],
        brand=["Oak  Hill", " oak hill", None],
        price=[1.0, 2.0, 3.0],
        fresh=[True, False, True],
    )
    assert lists(item_tags(items, min_items=1)) == [
        ["brand=oak hill", "subclass=tea"],
        ["brand=oak hill", "subclass=tea"],
        ["subclass=oat"],
    ]
    assert item_tags(items, min_items=2).names == ["brand=oak hill", "subclass=tea"]


def test_rare_values_are_left_out_at_five_items_by_default() -> None:
    items = frame(subclass=["a"] * 5 + ["b"] * 4, brand=["x"] * 9)
    assert item_tags(items).names == ["brand=x", "subclass=a"]


def test_a_tags_column_takes_the_taxonomys_place() -> None:
    items = frame(
        subclass=["s"] * 4,
        tags=pl.Series(
            [["Vegan ", "vegan", "hot"], [], None, ["hot", ""]], dtype=pl.List(pl.String)
        ),
    )
    assert lists(item_tags(items, min_items=1)) == [["hot", "vegan"], [], [], ["hot"]]


def test_blank_values_are_no_tags() -> None:
    tags = item_tags(frame(subclass=["  ", "a"]), min_items=1)
    assert lists(tags) == [[], ["subclass=a"]]


def test_items_without_any_tag() -> None:
    tags = item_tags(pl.DataFrame({"item_id": [1, 2], "price": [1.0, 2.0]}))
    assert tags.names == []
    np.testing.assert_array_equal(tags.offsets, [0, 0, 0])
    assert (tags.offsets.dtype, tags.ids.dtype) == (np.int64, np.int32)
