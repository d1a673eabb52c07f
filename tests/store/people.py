"""Users with different numbers everywhere, some of them without events."""

import numpy as np

from engine.repeats import repeat_history
from engine.store.codec import Shape
from engine.store.users import UserRecord

SHAPE = Shape(dim=4, n_categorical=2, n_numeric=3)
IDS = ["a", "ab", "abc", "b", "zz", "ü"]  # by their UTF-8 bytes
LENGTHS = [3, 0, 5, 1, 0, 2]


def person(user_id: str, n_events: int, seed: int = 0, statistics: bool = False) -> UserRecord:
    """One user; with `statistics` the repeat items carry all_count and all_span."""
    rng = np.random.default_rng([seed, *user_id.encode("utf-8", "surrogatepass"), n_events])
    items = rng.integers(0, 4, n_events).astype(np.int32)
    times = np.sort(rng.integers(0, 10**9, n_events))
    sessions = np.arange(n_events, dtype=np.int32)
    state = repeat_history(items, times, sessions).after(
        n_events - 1, int(times[-1]) if n_events else 0
    )
    if not statistics:
        state = type(state)(**{**vars(state), "all_count": None, "all_span": None})
    known = rng.random(SHAPE.n_numeric) < 0.5
    return UserRecord(
        user_id=user_id,
        h_next=rng.standard_normal(SHAPE.dim, np.float32),
        h_gen=rng.standard_normal(SHAPE.dim, np.float32),
        categorical=rng.integers(0, 9, SHAPE.n_categorical).astype(np.int32),
        numeric=np.where(known, rng.standard_normal(SHAPE.n_numeric), np.nan).astype(np.float32),
        items=items,
        times=times,
        types=rng.integers(0, 2, n_events).astype(np.int32),
        sessions=sessions,
        repeats=state,
    )


def people(seed: int = 0) -> list[UserRecord]:
    """One user for each of IDS."""
    return [person(user_id, n, seed) for user_id, n in zip(IDS, LENGTHS, strict=True)]


def assert_same(mine: UserRecord | None, theirs: UserRecord) -> None:
    """Every array bit for bit, its dtype, and that nobody can write into what is shared."""
    assert mine is not None
    assert mine.user_id == theirs.user_id
    for name, expected in vars(theirs).items():
        if isinstance(expected, np.ndarray):
            _assert_equal(getattr(mine, name), expected)
    for name, expected in vars(theirs.repeats).items():
        got = getattr(mine.repeats, name)
        assert type(got) is type(expected), name
        if isinstance(expected, np.ndarray):
            _assert_equal(got, expected)
        else:
            assert got == expected


def _assert_equal(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype
    assert not got.flags.writeable
