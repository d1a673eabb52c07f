from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.ranking.sarm.anchors import FIELDS, checked_anchors
from engine.ranking.sarm.tokens import AnchorTokenizer, covering, fit_tokenizer, shares


def anchors(rows: list[dict[str, str]]) -> pl.DataFrame:
    texts = {name: [row.get(name, "") for row in rows] for name in FIELDS}
    frame = pl.DataFrame(
        {"author_id": range(len(rows)), "time": [0] * len(rows), **texts},
        schema_overrides={"author_id": pl.Int64, "time": pl.Int64}
        | dict.fromkeys(FIELDS, pl.String),
    )
    return checked_anchors(frame, "a")


KNOWN = anchors(
    [{"theme": "late night guitar, live", "scene": "ein café in Zürich"}] * 3
    + [{"theme": "late night talk", "topic": "日本語 ラジオ"}] * 3
)


@pytest.fixture(scope="module")
def tokenizer() -> AnchorTokenizer:
    return fit_tokenizer(KNOWN, 300)


def shown(tokenizer: AnchorTokenizer, row: dict[str, str], n: int = 40) -> list[tuple[str, str]]:
    tokens = tokenizer.encode(anchors([row]), n)
    base = [tokenizer.base.id_to_token(int(i)) for i in tokens.base[0]]
    unit = [tokenizer.domain.id_to_token(int(i)) if i >= 0 else "" for i in tokens.domain[0]]
    return list(zip(base, unit, strict=True))


def test_units_grow_over_spaces_and_stop_at_punctuation(tokenizer: AnchorTokenizer) -> None:
    assert shown(tokenizer, {"theme": "Late night guitar, live"}) == [
        ("[CLS]", ""), ("late", "late night guitar"), ("night", "late night guitar"),
        ("guitar", "late night guitar"), (",", ","), ("live", " live"),
    ]  # fmt: skip


def test_offsets_are_those_of_the_text_as_written(tokenizer: AnchorTokenizer) -> None:
    """Accents that the base strips, and capitals, do not move what comes after them."""
    found = shown(tokenizer, {"scene": "Ein CAFÉ in Zürich"})
    assert [unit for _, unit in found[1:]] == ["ein café in zürich"] * (len(found) - 1)
    found = shown(tokenizer, {"topic": "日本語"})
    assert found[1:] == [("日", "日本"), ("本", "日本"), ("語", "語")]


def test_what_no_unit_covers_has_none(tokenizer: AnchorTokenizer) -> None:
    assert shown(tokenizer, {"theme": "🎉 xqj"})[1:][0][1] == ""
    assert covering([(0, 3), (3, 5), (5, 6)], [(0, 4), (4, 5)]).tolist() == [0, -1, -1]
    assert covering([(1, 2)], []).tolist() == [-1]
    assert covering([], [(0, 1)]).tolist() == []


def test_an_anchor_of_blanks_is_its_cls(tokenizer: AnchorTokenizer) -> None:
    tokens = tokenizer.encode(anchors([{}, {"format": "live"}]), 40)
    assert tokens.length.tolist() == [1, 2]
    assert tokens.base.tolist() == [[101, 0], [101, tokens.base[1, 1]]]
    assert tokens.field.tolist() == [[0, 0], [0, 1 + FIELDS.index("format")]]
    assert (tokens.domain[0] == -1).all()
    empty = tokenizer.encode(anchors([]), 40)
    assert empty.base.shape == (0, 1)


def test_a_long_field_leaves_the_others_their_share(tokenizer: AnchorTokenizer) -> None:
    row = dict.fromkeys(FIELDS, "live") | {"theme": "night " * 60}
    tokens = tokenizer.encode(anchors([row]), 16)
    assert tokens.base.shape == (1, 16)
    counts = np.bincount(tokens.field[0], minlength=7)
    assert counts.tolist() == [1, 1, 10, 1, 1, 1, 1]


def test_room_for_each_field_is_needed(tokenizer: AnchorTokenizer) -> None:
    with pytest.raises(ValueError, match="max_tokens: expected more than 6, got 6"):
        tokenizer.encode(KNOWN, 6)


def test_saved_tokenizers_are_the_same(tokenizer: AnchorTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = AnchorTokenizer.load(tmp_path)
    for one, other in zip(tokenizer.encode(KNOWN, 20), again.encode(KNOWN, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "domain.json").unlink()
    with pytest.raises(DataError, match=r"domain.json: expected a tokenizer, got none"):
        AnchorTokenizer.load(tmp_path)
    with pytest.raises(DataError, match="expected a base with"):
        AnchorTokenizer(tokenizer.domain, tokenizer.domain)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 60))
def test_shares_are_fair(lengths: list[int], budget: int) -> None:
    kept = shares(lengths, budget)
    assert sum(kept) == min(sum(lengths), budget)
    assert all(k <= n for k, n in zip(kept, lengths, strict=True))
    cut = [k for k, n in zip(kept, lengths, strict=True) if k < n]
    assert all(max(kept) - k <= 1 for k in cut)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_is_read(text: str, other: str) -> None:
    tokenizer = _ANY
    tokens = tokenizer.encode(anchors([{"theme": text, "scene": other}]), 24)
    assert tokens.base.shape == tokens.domain.shape == tokens.field.shape
    assert tokens.length[0] <= 24
    n = int(tokens.length[0])
    assert tokens.base[0, 0] == 101
    assert not tokens.base[0, n:].any()
    assert (tokens.domain[0, n:] == -1).all()
    assert tokens.domain.max() < tokenizer.sizes[1]


_ANY = fit_tokenizer(KNOWN, 300)
