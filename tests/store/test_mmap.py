from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BundleError
from engine.repeats import RepeatState, repeat_history
from engine.store.mmap import FILES, MemoryMappedUserStore, UserArrays, write_users

IDS = ["a", "ab", "abc", "b", "zz", "ü"]  # by their UTF-8 bytes
LENGTHS = [3, 0, 5, 1, 0, 2]
D, C, M = 4, 2, 3


def users(ids: list[str] = IDS, lengths: list[int] = LENGTHS) -> UserArrays:
    """Different numbers everywhere, some users without events."""
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    n_users, n_events = len(ids), int(offsets[-1])
    items = rng.integers(0, 4, n_events).astype(np.int32)
    times = np.sort(rng.integers(0, 10**9, n_events))
    sessions = np.concatenate([np.arange(0), *(np.arange(n) for n in lengths)]).astype(np.int32)
    states = []
    for low, high in pairwise(offsets.tolist()):
        history = repeat_history(items[low:high], times[low:high], sessions[low:high])
        last = int(times[high - 1]) if high > low else 0
        states.append(history.after(int(high - low) - 1, last))
    return UserArrays(
        user_ids=np.array([text.encode() for text in ids], "S5" if not ids else None),
        h_next=rng.standard_normal((n_users, D), np.float32),
        h_gen=rng.standard_normal((n_users, D), np.float32),
        categorical=rng.integers(0, 9, (n_users, C)).astype(np.int32),
        numeric=np.where(
            rng.random((n_users, M)) < 0.5, np.nan, rng.standard_normal((n_users, M))
        ).astype(np.float32),
        event_offsets=offsets,
        event_item=items,
        event_time=times,
        event_type=rng.integers(0, 2, n_events).astype(np.int32),
        event_session=sessions,
        repeats=states,
    )


@pytest.fixture
def store(tmp_path: Path) -> MemoryMappedUserStore:
    write_users(tmp_path, users())
    return MemoryMappedUserStore(tmp_path)


def test_every_user_comes_back_as_written(store: MemoryMappedUserStore) -> None:
    written = users()
    records = store.get_many(IDS)
    assert len(store) == len(IDS)
    assert (store.dim, store.n_categorical, store.n_numeric) == (D, C, M)
    for place, record in enumerate(records):
        assert record is not None
        assert record.user_id == IDS[place]
        rows = slice(written.event_offsets[place], written.event_offsets[place + 1])
        for mine, theirs in (
            (record.h_next, written.h_next[place]),
            (record.h_gen, written.h_gen[place]),
            (record.categorical, written.categorical[place]),
            (record.numeric, written.numeric[place]),
            (record.items, written.event_item[rows]),
            (record.times, written.event_time[rows]),
            (record.types, written.event_type[rows]),
            (record.sessions, written.event_session[rows]),
        ):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
            assert not mine.flags.writeable
        for name in (*RepeatState.FIELDS, "n_sessions", "last_session_time"):
            expected = getattr(written.repeats[place], name)
            np.testing.assert_array_equal(getattr(record.repeats, name), expected)
            assert type(getattr(record.repeats, name)) is type(expected)
        # A stored state is its user's last, so the statistics hold just what it counts.
        assert record.repeats.all_count is None
        assert record.repeats.all_span is None


def test_a_user_without_events_has_an_empty_history(store: MemoryMappedUserStore) -> None:
    (record,) = store.get_many(["ab"])
    assert record is not None
    assert record.items.shape == record.times.shape == record.repeats.item.shape == (0,)
    assert record.repeats.decayed.shape == (0, 3)
    assert record.repeats.n_sessions == 0


@pytest.mark.parametrize(
    "unknown",
    ["", "aa", "0", "zzz", "abcd", "abc\0", "a\0", "\0", "a" * 10_000, "ü" * 3, "\ud800", "é"],
)
def test_unknown_users_are_none(store: MemoryMappedUserStore, unknown: str) -> None:
    assert store.get_many([unknown]) == [None]


def test_no_id_finds_an_empty_one_that_another_writer_left(tmp_path: Path) -> None:
    write_users(tmp_path, users())
    np.save(tmp_path / "user_ids.npy", np.array([b"", *(text.encode() for text in IDS[1:])]))
    assert MemoryMappedUserStore(tmp_path).get_many(["", "\0", "a" * 99]) == [None] * 3


def test_a_batch_keeps_its_order(store: MemoryMappedUserStore) -> None:
    asked = ["zz", "nobody", "a", "", "ü", "a"]
    found = [None if record is None else record.user_id for record in store.get_many(asked)]
    assert found == ["zz", None, "a", None, "ü", "a"]
    assert store.get_many([]) == []


@given(ids=st.sets(st.text(min_size=1, max_size=4)), asked=st.lists(st.text(max_size=5)))
def test_exactly_the_stored_ids_are_found(
    tmp_path_factory: pytest.TempPathFactory, ids: set[str], asked: list[str]
) -> None:
    stored = sorted(text for text in ids if not text.endswith("\0"))
    stored.sort(key=lambda text: text.encode("utf-8", "surrogatepass"))
    stored = [text for text in stored if text.encode("utf-8", "replace").decode() == text]
    folder = tmp_path_factory.mktemp("users")
    write_users(folder, users(stored, [1] * len(stored)))
    asked = asked + stored
    found = [record is not None for record in MemoryMappedUserStore(folder).get_many(asked)]
    assert found == [text in stored for text in asked]


def test_a_store_of_nobody_knows_nobody(tmp_path: Path) -> None:
    write_users(tmp_path, users([], []))
    store = MemoryMappedUserStore(tmp_path)
    assert len(store) == 0
    assert store.get_many(["a", ""]) == [None, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_ids": np.array(["a", "b"])}, r"user_ids: expected \[U\] bytes, .* got \[2\] <U1"),
        ({"user_ids": np.array([b"", b"b"])}, "user_ids: expected .* none empty"),
        (
            {"user_ids": np.array([b"b", b"a"])},
            "expected ascending and unique, got b'b' before b'a'",
        ),
        (
            {"user_ids": np.array([b"a", b"a"])},
            "expected ascending and unique, got b'a' before b'a'",
        ),
        ({"repeats": []}, "repeats: expected 2 states, got 0"),
        ({"h_next": np.zeros((3, D), np.float32)}, r"h_next: expected 2 entries \(users\), got 3"),
        (
            {"h_gen": np.zeros((2, 5), np.float32)},
            r"h_gen: expected \[2, 4\] as h_next, got \[2, 5",
        ),
        (
            {"numeric": np.zeros((2, M))},
            r"numeric: expected 2 dimensions of float32, got .* float64",
        ),
        (
            {"event_item": np.zeros(3, np.int32)},
            r"event_item: expected 2 entries \(events\), got 3",
        ),
        ({"event_offsets": np.array([0, 2])}, r"event_offsets: expected 3 entries \(users \+ 1\)"),
        ({"event_offsets": np.array([1, 1, 2])}, "event_offsets: expected to begin with 0, got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "users"
    with pytest.raises(ValueError, match=f"write_users: .*{message}"):
        write_users(folder, replace(users(["a", "b"], [1, 1]), **changes))
    assert not folder.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_users(tmp_path, users())
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: expected a plain .npy array, got .*No such"):
        MemoryMappedUserStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04N."])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    write_users(tmp_path, users())
    (tmp_path / "h_gen.npy").write_bytes(content)
    with pytest.raises(BundleError, match=r"h_gen.npy: expected a plain .npy array"):
        MemoryMappedUserStore(tmp_path)


def test_a_file_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    write_users(tmp_path, users())
    path = tmp_path / "event_time.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"event_time.npy: expected a plain .npy array, got mmap"):
        MemoryMappedUserStore(tmp_path)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    write_users(tmp_path, users())
    np.save(tmp_path / "numeric.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(
        BundleError, match=r"numeric.npy: expected a plain .npy array, got .*objects"
    ):
        MemoryMappedUserStore(tmp_path)


def test_files_of_different_stores_are_refused(tmp_path: Path) -> None:
    write_users(tmp_path, users())
    np.save(tmp_path / "h_next.npy", np.zeros((2, D), np.float32))
    with pytest.raises(BundleError, match=r"h_next: expected 6 entries \(users\), got 2"):
        MemoryMappedUserStore(tmp_path)
    np.save(tmp_path / "user_ids.npy", np.arange(6))
    with pytest.raises(BundleError, match=r"user_ids.npy: expected \[U\] bytes, got \[6\] int64"):
        MemoryMappedUserStore(tmp_path)
