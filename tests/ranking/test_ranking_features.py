"""From a log to tensors: kinds of columns, unknown values, vocabularies, fields."""

import json
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import DataError
from engine.ranking.data.impressions import Impressions
from engine.ranking.features import FeatureConfig, Features, FieldEmbedding, concatenated, fit


def log(n: int = 40, **columns: Any) -> Impressions:
    """Rows of two users, of whom the features are what is given."""
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": [f"{k % 2}/{k // 2}" for k in range(n)],
                "user_id": [k % 2 for k in range(n)],
                "item_id": [k % 7 for k in range(n)],
                "time": range(n),
                "label_a": [k % 3 == 0 for k in range(n)],
                "label_b": [k % 5 == 0 for k in range(n)],
                "outcome_x": [1.0] * n,
                **columns,
            }
        ),
        "f",
    )


def test_columns_have_their_kinds_and_answers_are_none() -> None:
    features = fit(
        log(
            age=[float(k) for k in range(40)],
            city=["a", "b"] * 20,
            streamer_id=[k * 1000 for k in range(40)],
            long=list(range(40)),
            code=[k % 3 for k in range(40)],
            live=[True, False] * 20,
        )
    )
    assert features.numbers == ("age", "long")
    assert features.categories == ("user_id", "item_id", "city", "streamer_id", "code", "live")
    assert features.objectives == ("a", "b")
    assert features.sizes == (3, 8, 3, 1, 4, 3)
    left = fit(log(age=[1.5] * 40), FeatureConfig(leave_out=("age", "item_id")))
    assert left.numbers == ()
    assert left.categories == ("user_id",)
    assert left.read(log(age=[1.5] * 40)).numbers.shape == (40, 0)


def test_numbers_are_standardised_and_the_unknown_is_flagged() -> None:
    values = [None, float("nan"), *(10.0**k - 1 for k in range(38))]
    seen = log(x=values, y=[float(-k) for k in range(40)])
    features = fit(seen)
    assert features.columns == ("x", "y", "x is unknown")
    numbers = features.read(seen).numbers
    assert numbers.dtype == torch.float32
    known = numbers[2:]
    expected = (np.arange(38) - 18.5) / np.arange(38).std()  # log(10^k) are equal steps
    np.testing.assert_allclose(known[:, 0], expected, rtol=1e-5)
    assert numbers[:2, 0].tolist() == [0, 0]
    assert numbers[:, 2].tolist() == [1, 1] + [0] * 38
    np.testing.assert_allclose(numbers[:, 1].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(numbers[:, 1].std(correction=0), 1, rtol=1e-5)
    # Of one value, or none, the deviation is 1; what the fit always knew has no flag.
    nothing = pl.Series([None] * 40, dtype=pl.Float64)
    features = fit(log(x=[3.0] * 40, y=nothing))
    later = features.read(log(x=[None, 7.0] * 20, y=[1.0] * 40)).numbers
    np.testing.assert_allclose(later[:2], [[0, np.log(2), 0], [np.log(8 / 4), np.log(2), 0]], 1e-6)


def test_rare_new_and_unknown_categories_are_0() -> None:
    city = ["rome"] * 20 + ["oslo"] * 15 + ["bonn"] * 4 + [None]
    features = fit(log(city=city), FeatureConfig(min_count=5))
    place = features.categories.index("city")
    assert features.vocabularies[place] == ("oslo", "rome")
    codes = features.read(log(city=city)).categories[:, place]
    assert codes.dtype == torch.int64
    assert codes.tolist() == [2] * 20 + [1] * 15 + [0] * 5
    new = features.read(log(city=["rome", "lima"] * 20)).categories[:, place]
    assert new.tolist() == [2, 0] * 20
    assert fit(log(city=city), FeatureConfig(min_count=4)).sizes[place] == 4


def test_the_state_is_json_and_reads_the_same() -> None:
    seen = log(x=[None, 1.25] * 20, city=["a", "b"] * 20)
    features = fit(seen)
    again = Features.of(json.loads(json.dumps(features.state())))
    assert again == features
    for ours, theirs in zip(features.read(seen), again.read(seen), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(TypeError):
        Features.of(features.state() | {"depth": 1})


def test_labels_are_those_of_the_fit() -> None:
    features = fit(log())
    assert torch.equal(features.labels(log()), torch.from_numpy(log().labels).float())
    other = Impressions(log().frame.rename({"label_b": "label_c"}))
    with pytest.raises(DataError, match=r"objectives: expected \['a', 'b'\], got \['a', 'c'\]"):
        features.labels(other)


def test_wrong_columns_are_refused() -> None:
    features = fit(log(x=[float(k) for k in range(40)], city=["a", "b"] * 20))
    with pytest.raises(DataError, match="expected a column x, got none"):
        features.read(log(city=["a", "b"] * 20))
    with pytest.raises(DataError, match="column x: expected numbers, got String"):
        features.read(log(x=["a"] * 40, city=["a", "b"] * 20))
    with pytest.raises(DataError, match="column city: expected categories, got Float64"):
        features.read(log(x=[1.0] * 40, city=[1.0] * 40))
    with pytest.raises(DataError, match="column x: expected finite numbers, got infinity"):
        fit(log(x=[1.0, float("inf")] * 20))
    with pytest.raises(DataError, match="column x: expected strings, numbers or bools, got Date"):
        fit(log(x=[datetime(2020, 1, 1)] * 40))
    with pytest.raises(DataError, match=r"leave_out: expected columns of the log, got \['z'\]"):
        fit(log(), FeatureConfig(leave_out=("z",)))
    with pytest.raises(ValueError, match="expected impressions to fit on, got none"):
        fit(Impressions(log().frame.clear()))
    with pytest.raises(ValidationError, match="extra"):
        FeatureConfig.model_validate({"rare": 1})


@pytest.mark.parametrize("equal", [False, True])
def test_fields_are_one_a_category_and_two_for_numbers(equal: bool) -> None:
    seen = log(user_age=[float(k) for k in range(40)], size=[None, 2.5] * 20, city=["a", "b"] * 20)
    features = fit(seen)
    embedding = FieldEmbedding(features, 4, equal=equal)
    fields = embedding(*features.read(seen))
    assert [tuple(field.shape) for field in fields] == [(40, d) for d in embedding.dims]
    assert embedding.dims == ((4,) * 5 if equal else (3, 4, 3, 1, 2))
    joined = concatenated(fields)
    assert joined.shape == (40, sum(embedding.dims))
    assert torch.equal(joined[:, : embedding.dims[0]], fields[0])
    joined.sum().backward()
    assert all(p.grad is not None for p in embedding.parameters())
    if not equal:
        assert torch.equal(fields[3][:, 0], features.read(seen).numbers[:, 0])
    with pytest.raises(ValueError, match="dim: expected at least 1, got 0"):
        FieldEmbedding(features, 0)


@pytest.mark.parametrize("equal", [False, True])
def test_small_categories_of_a_side_share_a_field(equal: bool) -> None:
    seen = log(
        user_kind=["a", "b"] * 20, user_hue=["a", "b"] * 20, city=["a", "b"] * 20, size=[0.5] * 40
    )
    features = fit(seen)
    assert features.sizes == (3, 8, 3, 3, 3)
    embedding = FieldEmbedding(features, 4, join=3, equal=equal)
    inputs = features.read(seen)
    fields = embedding(*inputs)
    assert embedding.dims == ((4,) * 4 if equal else (4, 9, 3, 1))  # item, users, others, size
    assert [field.shape[1] for field in fields] == list(embedding.dims)
    if not equal:
        tables = [embedding.tables[c] for c in (0, 2, 3)]
        codes = [inputs.categories[:, c] for c in (0, 2, 3)]
        users = [table(code) for table, code in zip(tables, codes, strict=True)]
        assert torch.equal(fields[1], torch.cat(users, 1))


def test_fields_broadcast_where_they_are_joined() -> None:
    joined = concatenated([torch.ones(2, 1, 3), torch.zeros(2, 5, 2)])
    assert joined.shape == (2, 5, 5)
    assert joined[..., :3].all()
    assert not joined[..., 3:].any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=30),
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=30, max_size=30),
    st.integers(1, 4),
)
def test_any_strings_and_numbers_are_read(
    city: list[str | None], x: list[float | None], min_count: int
) -> None:
    columns = {
        "city": pl.Series(city, dtype=pl.String),
        "x": pl.Series(x[: len(city)], dtype=pl.Float64),
    }
    seen = log(len(city), **columns)
    features = fit(seen, FeatureConfig(min_count=min_count))
    inputs = features.read(seen)
    assert inputs.numbers.isfinite().all()
    codes = inputs.categories[:, features.categories.index("city")].tolist()
    place = features.categories.index("city")
    for value, code in zip(city, codes, strict=True):
        rare = value is None or city.count(value) < min_count
        assert code == 0 if rare else features.vocabularies[place][code - 1] == value
