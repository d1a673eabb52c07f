"""A record as bytes: what goes in comes out, and what was damaged does not."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.repeats import RepeatState
from engine.store.codec import Shape, decode, encode, shape_of
from engine.store.users import UserRecord
from tests.store.people import IDS, LENGTHS, SHAPE, assert_same, person


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(("user_id", "n_events"), list(zip(IDS, LENGTHS, strict=True)))
def test_a_record_comes_back(user_id: str, n_events: int, statistics: bool) -> None:
    record = person(user_id, n_events, statistics=statistics)
    data = encode(record)
    assert len(data) % 8 == 0
    assert shape_of(data) == SHAPE
    assert_same(decode(user_id, data, SHAPE), record)
    assert_same(decode(user_id, memoryview(data)), record)


def test_the_bytes_are_a_contract() -> None:
    """Another layout must get another number: stores outlive the code that wrote them."""
    record = person("abc", 5, statistics=True)
    fields = {n: filled(a) if isinstance(a, np.ndarray) else a for n, a in vars(record).items()}
    state = {n: filled(a) for n, a in vars(record.repeats).items() if isinstance(a, np.ndarray)}
    state = {name: array[:2] for name, array in state.items()}
    fields["repeats"] = RepeatState(**state, n_sessions=6, last_session_time=7)
    data = encode(UserRecord(**fields))
    assert data[4:6] == b"\x01\x00"
    assert hashlib.sha256(data).hexdigest()[:16] == "ce259c5151a8c063"


def filled(like: np.ndarray) -> np.ndarray:
    """Counts up from 1, in the same shape and dtype."""
    return np.arange(1, like.size + 1, dtype=like.dtype).reshape(like.shape)


@given(data=st.data(), statistics=st.booleans())
def test_any_changed_byte_is_seen(data: Any, statistics: bool) -> None:
    encoded = bytearray(encode(person("abc", 5, statistics=statistics)))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="expected"):
        decode("abc", bytes(encoded), SHAPE)


@given(size=st.integers(0, 351))
def test_any_lost_end_is_seen(size: int) -> None:
    encoded = encode(person("abc", 5))
    assert len(encoded) == 352
    with pytest.raises(ValueError, match="bytes, got"):
        decode("abc", encoded[:size], SHAPE)


def test_another_users_record_is_refused() -> None:
    with pytest.raises(ValueError, match="checksum"):
        decode("ab", encode(person("abc", 5)), SHAPE)


def test_another_models_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected Shape\(dim=5.*, got Shape\(dim=4"):
        decode("abc", encode(person("abc", 5)), Shape(5, 2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h_gen": np.zeros(5, np.float32)}, r"user 'a': h_gen: expected \[4\] float32, got \[5\]"),
        ({"h_next": np.zeros(4)}, r"h_next: expected \[4\] float32, got \[4\] float64"),
        ({"times": np.zeros(2, np.int64)}, r"times: expected \[3\] int64, got \[2\] int64"),
        ({"types": np.zeros((3, 1), np.int32)}, r"types: expected \[3\] int32, got \[3, 1\]"),
        ({"h_next": np.full(4, np.nan, np.float32)}, "h_next: expected finite numbers"),
        ({"h_gen": np.full(4, np.inf, np.float32)}, "h_gen: expected finite numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(replace(person("a", 3), **changes))
