"""Parsing and every rule that needs no catalogue."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.serving.request import (
    CANDIDATES_MAX,
    CLOCK_SKEW_S,
    EVENTS_MAX,
    K_MAX,
    TIME_MAX_S,
    USER_ID_BYTES_MAX,
    Options,
    parse,
    parse_options,
)

NOW = 1_700_000_000
Tensors = dict[str, NDArray[Any]]


def users(*ids: bytes) -> Tensors:
    return {"user_id": np.array([[user] for user in ids], dtype=object)}


def ints(name: str, *rows: list[int]) -> Tensors:
    dtype = np.int32 if name == "event_types" else np.int64
    return {name: np.array(rows, dtype=dtype).reshape(len(rows), -1)}


def floats(*rows: list[float]) -> Tensors:
    return {"context": np.array(rows, dtype=np.float32).reshape(len(rows), -1)}


def refused(text: str, tensors: Tensors, **parameters: Any) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(text)}$"):
        parse(tensors, json.dumps(parameters), NOW)


def test_defaults() -> None:
    (request,) = parse(users(b"anna"), "", NOW)
    assert request.user_id == "anna"
    assert request.item_ids.dtype == np.int64
    assert request.item_ids.shape == (0,)
    assert (request.event_types, request.event_times, request.context) == (None, None, None)
    options = (request.k, request.strategy, request.repeats, request.filter, request.time)
    assert options == (10, "round_robin", "allow", None, None)
    assert request.explain is False


def test_every_option() -> None:
    given = {
        "k": 500,
        "strategy": "next",
        "repeats": "exclude",
        "filter": '{"price": {"lt": 3}}',
        "time": 0,
        "explain": True,
    }
    assert parse_options(json.dumps(given)) == Options(**given)


def test_padding_is_removed_row_by_row() -> None:
    tensors = {
        **users(b"", "zoë".encode(), b"x"),
        **ints("item_ids", [5, 6, 7], [8, -1, -1], [-1, -1, -1]),
        **ints("event_types", [0, 1, 0], [-1, -1, -1], [-1, -1, -1]),
        **ints("event_times", [1, 1, 2], [4, -1, -1], [-1, -1, -1]),
        **floats([1, 2], [3, 4], [5, 6]),
    }
    first, second, third = parse(tensors, "", NOW)
    assert (first.user_id, second.user_id, third.user_id) == (None, "zoë", "x")
    assert [request.item_ids.tolist() for request in (first, second, third)] == [[5, 6, 7], [8], []]
    assert first.event_types is not None
    assert first.event_types.tolist() == [0, 1, 0]
    assert second.event_types is None
    assert second.event_times is not None
    assert second.event_times.tolist() == [4]
    assert third.event_times is None
    assert third.context is not None
    assert third.context.tolist() == [5, 6]


def test_tensors_of_length_0_are_absent_ones() -> None:
    tensors = {
        **users(b""),
        **ints("item_ids", [3]),
        **ints("event_types", []),
        **ints("event_times", []),
        **floats([]),
    }
    (request,) = parse(tensors, "", NOW)
    assert request.item_ids.tolist() == [3]
    assert (request.user_id, request.event_types) == (None, None)
    assert (request.event_times, request.context) == (None, None)


@given(st.lists(st.lists(st.integers(0, 2**62), min_size=1, max_size=9), min_size=1, max_size=6))
def test_any_padded_batch_comes_back(rows: list[list[int]]) -> None:
    width = max(map(len, rows))
    padded = [row + [-1] * (width - len(row)) for row in rows]
    assert [r.item_ids.tolist() for r in parse(ints("item_ids", *padded), "", NOW)] == rows


NO_ROWS = {"item_ids": np.empty((0, 3), np.int64)}
NEITHER = "user_id: expected a user or events, got neither"


@pytest.mark.parametrize(
    "tensors",
    [{}, users(b""), ints("item_ids", []), ints("item_ids", [-1, -1]), NO_ROWS],
    ids=["nothing", "empty user", "empty sequence", "only padding", "no rows"],
)
def test_neither_user_nor_events(tensors: Tensors) -> None:
    refused(NEITHER, tensors)


@pytest.mark.parametrize("k", [0, -1, 501, 10**18, True, 5.0, "5", None])
def test_k(k: object) -> None:
    refused(f"k: expected an integer from 1 to {K_MAX}, got {k!r}", users(b"u"), k=k)


@pytest.mark.parametrize("value", ["best", "NEXT", 1, True, "", None])
def test_strategy_and_repeats(value: object) -> None:
    text = f"strategy: expected next, general, round_robin, got {value!r}"
    refused(text, users(b"u"), strategy=value)
    refused(f"repeats: expected allow, exclude, got {value!r}", users(b"u"), repeats=value)


@pytest.mark.parametrize("value", [1, 0, "true", 1.0, None])
def test_explain(value: object) -> None:
    refused(f"explain: expected true or false, got {value!r}", users(b"u"), explain=value)


@pytest.mark.parametrize("value", [1, True, 2.5])
def test_filter_is_text(value: object) -> None:
    refused(f"filter: expected a string of JSON, got {value!r}", users(b"u"), filter=value)


@pytest.mark.parametrize("time", [-1, TIME_MAX_S + 1, 1_700_000_000_000, True, 1.5, "now"])
def test_time(time: object) -> None:
    text = f"time: expected unix seconds from 0 to {TIME_MAX_S}, got {time!r}"
    refused(text, users(b"u"), time=time)


@pytest.mark.parametrize("name", ["K", "top_k", "stages", "sequence_id"])
def test_a_misspelt_parameter_is_not_ignored(name: str) -> None:
    known = "k, strategy, repeats, filter, time, explain, place, stage, diversity, objective_scores"
    refused(f"{name}: expected a parameter of {known}, got {name!r}", users(b"u"), **{name: 1})


@pytest.mark.parametrize("value", ["ranked", 1, None])
def test_stage(value: object) -> None:
    refused(f"stage: expected retrieve, rank, page, got {value!r}", users(b"u"), stage=value)


@pytest.mark.parametrize("value", [-0.1, 1.5, "much", "nan", True, [0.5]])
def test_diversity_is_a_share(value: object) -> None:
    text = f"diversity: expected a number from 0 to 1, got {value!r}"
    refused(text, users(b"u"), stage="page", diversity=value)


def test_diversity_may_be_text() -> None:
    for value in (0.25, "0.25"):
        parameters = json.dumps({"stage": "page", "diversity": value})
        assert parse(users(b"u"), parameters, NOW)[0].diversity == 0.25


def test_parameters_of_another_stage() -> None:
    text = "diversity: expected stage page, got stage 'rank'"
    refused(text, users(b"u"), stage="rank", diversity=0.5)
    text = "objective_scores: expected stage rank or page, got stage 'retrieve'"
    refused(text, users(b"u"), objective_scores=True)
    text = "objective_scores: expected true or false, got 1"
    refused(text, users(b"u"), stage="rank", objective_scores=1)


def test_too_many_candidates() -> None:
    text = f"candidates: expected at most {CANDIDATES_MAX} items, got {CANDIDATES_MAX + 1}"
    tensors = users(b"u") | ints("candidates", [*range(CANDIDATES_MAX + 1)])
    refused(text, tensors)


def test_candidates_are_padded_row_by_row() -> None:
    tensors = users(b"u", b"v", b"w") | ints("candidates", [3, 4], [5, -1], [-1, -1])
    found = [request.candidates for request in parse(tensors, "", NOW)]
    assert [None if one is None else one.tolist() for one in found] == [[3, 4], [5], None]


def test_unknown_tensor() -> None:
    known = "user_id, item_ids, event_types, event_times, context, candidates"
    refused(f"items: expected a tensor of {known}, got 'items'", ints("items", [1]))


def test_dtype() -> None:
    tensors = {"item_ids": np.zeros((1, 2), np.int32)}
    refused("item_ids: expected dtype int64, got int32", tensors)


def test_shape() -> None:
    refused(
        "item_ids: expected shape [batch, length], got [3]", {"item_ids": np.zeros(3, np.int64)}
    )
    two = {"user_id": np.array([[b"a", b"b"]], dtype=object)}
    refused("user_id: expected shape [batch, 1], got [1, 2]", two)


def test_numbers_of_rows() -> None:
    tensors = {**users(b"a", b"b"), **ints("item_ids", [1], [2], [3])}
    refused("item_ids: expected 2 rows, got 3", tensors)


def test_user_id() -> None:
    refused(r"user_id: expected UTF-8 text, got b'\xff\xfe'", users(b"\xff\xfe"))
    refused(r"user_id: expected text without NUL, got 'a\x00'", users(b"a\0"))
    long = b"x" * (USER_ID_BYTES_MAX + 1)
    refused(f"user_id: expected at most {USER_ID_BYTES_MAX} bytes, got {len(long)}", users(long))


def test_padding_inside_a_sequence() -> None:
    refused(
        "item_ids[1]: expected -1 only as padding at the end, got -1 before a value",
        ints("item_ids", [4, -1, 5, -1]),
    )


@pytest.mark.parametrize("name", ["item_ids", "event_types", "event_times"])
def test_negative_values(name: str) -> None:
    tensors = {**ints("item_ids", [4, 5]), **ints(name, [4, -7])}
    refused(f"{name}[1]: expected 0 or more, got -7", tensors)


def test_too_many_events() -> None:
    refused(
        f"item_ids: expected at most {EVENTS_MAX} events, got {EVENTS_MAX + 1}",
        ints("item_ids", [1] * (EVENTS_MAX + 1)),
    )


@pytest.mark.parametrize("name", ["event_types", "event_times"])
@pytest.mark.parametrize("values", [[1], [1, 1, 1]])
def test_lengths_that_disagree(name: str, values: list[int]) -> None:
    refused(
        f"{name}: expected as many as item_ids (2) or none, got {len(values)}",
        {**ints("item_ids", [4, 5]), **ints(name, values)},
    )


def test_types_without_items() -> None:
    refused(
        "event_types: expected as many as item_ids (0) or none, got 1",
        {**users(b"u"), **ints("event_types", [0])},
    )


def test_times_that_decrease() -> None:
    refused(
        "event_times[2]: expected a time not before the one before it (9), got 8",
        {**ints("item_ids", [1, 2, 3]), **ints("event_times", [9, 9, 8])},
    )


def test_times_after_the_request() -> None:
    tensors = {**ints("item_ids", [1, 2]), **ints("event_times", [9, 101])}
    text = "event_times[1]: expected unix seconds no later than the request's time (100), got 101"
    refused(text, tensors, time=100)
    assert len(parse(tensors, '{"time": 101}', NOW)) == 1


def test_without_a_time_the_client_clock_may_run_ahead_a_little() -> None:
    limit = NOW + CLOCK_SKEW_S
    assert len(parse(ints("item_ids", [1]) | ints("event_times", [limit]), "", NOW)) == 1
    refused(
        "event_times[0]: expected unix seconds no later than the request's time "
        f"({limit}), got {limit + 1}",
        ints("item_ids", [1]) | ints("event_times", [limit + 1]),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 2.0**31])
def test_context_is_finite_and_not_huge(value: float) -> None:
    refused(
        f"context[1]: expected a number of at most 1e+09 in magnitude, got {value}",
        {**users(b"u"), **floats([0.5, value])},
    )


def test_the_row_is_named_where_there_are_several() -> None:
    refused("row 1: item_ids[0]: expected 0 or more, got -2", ints("item_ids", [1], [-2]))
