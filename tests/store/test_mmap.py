import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BundleError
from engine.store.codec import Shape
from engine.store.mmap import FILES, MemoryMappedUserStore, write_parts, write_users
from tests.store.people import IDS, SHAPE, assert_same, people, person


@pytest.fixture
def store(tmp_path: Path) -> MemoryMappedUserStore:
    write_users(tmp_path, people())
    return MemoryMappedUserStore(tmp_path)


def test_every_user_comes_back_as_written(store: MemoryMappedUserStore) -> None:
    assert len(store) == len(IDS)
    assert store.shape == SHAPE
    for mine, theirs in zip(store.get_many(IDS), people(), strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize(
    "unknown",
    ["", "aa", "0", "zzz", "abcd", "abc\0", "a\0", "\0", "a" * 10_000, "ü" * 3, "\ud800", "é"],
)
def test_unknown_users_are_none(store: MemoryMappedUserStore, unknown: str) -> None:
    assert store.get_many([unknown]) == [None]


def test_no_id_finds_an_empty_one_that_another_writer_left(tmp_path: Path) -> None:
    write_users(tmp_path, people())
    np.save(tmp_path / "ids.npy", np.array([b"", *(text.encode() for text in IDS[1:])]))
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
    stored = sorted(
        (text for text in ids if not text.endswith("\0")), key=lambda text: text.encode()
    )
    folder = tmp_path_factory.mktemp("users")
    write_users(folder, [person(text, 1) for text in stored])
    asked = asked + stored
    found = [record is not None for record in MemoryMappedUserStore(folder).get_many(asked)]
    assert found == [text in stored for text in asked]


def test_a_store_of_nobody_knows_nobody(tmp_path: Path) -> None:
    write_users(tmp_path, [])
    store = MemoryMappedUserStore(tmp_path)
    assert len(store) == 0
    assert store.get_many(["a", ""]) == [None, None]


def test_parts_are_the_same_bytes_as_the_whole(tmp_path: Path) -> None:
    write_users(tmp_path / "whole", people())
    parts = []
    for place, part in enumerate((people()[:1], people()[1:4], people()[4:])):
        folder = tmp_path / f"part-{place}"
        write_users(folder, part)
        ids, offsets = np.load(folder / "ids.npy"), np.load(folder / "offsets.npy")
        parts.append((ids, offsets, (folder / "records.bin").read_bytes()))
    write_parts(tmp_path / "joined", parts)
    for name in FILES:
        joined = (tmp_path / "joined" / name).read_bytes()
        assert joined == (tmp_path / "whole" / name).read_bytes(), name
    with pytest.raises(ValueError, match=r"ascending and unique ones, got .* b'a'\] at 1"):
        write_parts(tmp_path / "wrong", [parts[2], parts[0]])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["b", "a"], r"expected filled, ascending and unique ones, got \[b'b', b'a'\] at 0"),
        (["a", "a"], r"ascending and unique ones, got \[b'a', b'a'\] at 0"),
        (["", "a"], r"expected filled, .* got \[b'', b'a'\] at 0"),
    ],
)
def test_ids_out_of_order_are_not_written(tmp_path: Path, ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"write_users: user ids: .*{message}"):
        write_users(tmp_path, [person(text, 1) for text in ids])


def test_a_damaged_record_spoils_no_other(tmp_path: Path) -> None:
    write_users(tmp_path, people())
    at = int(np.load(tmp_path / "offsets.npy")[2]) + 50
    with (tmp_path / "records.bin").open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff\xff", at)
    store = MemoryMappedUserStore(tmp_path)
    found = store.get_many(IDS)
    assert [place for place, record in enumerate(found) if record is None] == [2]
    for place in (0, 1, 3, 4, 5):
        assert_same(found[place], people()[place])
    assert store.errors["record"] == 1


@pytest.mark.parametrize("value", [-5, 10**12, 0])
def test_damaged_offsets_spoil_no_other(tmp_path: Path, value: int) -> None:
    write_users(tmp_path, people())
    offsets = np.load(tmp_path / "offsets.npy")
    offsets[2] = value
    np.save(tmp_path / "offsets.npy", offsets)
    store = MemoryMappedUserStore(tmp_path)
    found = store.get_many(IDS)
    assert [place for place, record in enumerate(found) if record is None] == [1, 2]
    assert store.errors["record"] == 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_users(tmp_path, people())
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: expected .*, got .*No such"):
        MemoryMappedUserStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04N."])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    write_users(tmp_path, people())
    (tmp_path / "offsets.npy").write_bytes(content)
    with pytest.raises(BundleError, match=r"offsets.npy: expected a plain .npy array"):
        MemoryMappedUserStore(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lost_its_end_is_refused(tmp_path: Path, name: str) -> None:
    write_users(tmp_path, people())
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"{name}: expected"):
        MemoryMappedUserStore(tmp_path)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    write_users(tmp_path, people())
    np.save(tmp_path / "ids.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"ids.npy: expected a plain .npy array, got .*objects"):
        MemoryMappedUserStore(tmp_path)


def test_files_of_different_stores_are_refused(tmp_path: Path) -> None:
    write_users(tmp_path, people())
    np.save(tmp_path / "offsets.npy", np.arange(3))
    with pytest.raises(BundleError, match=r"offsets.npy: expected 7 entries, got 3"):
        MemoryMappedUserStore(tmp_path)
    np.save(tmp_path / "ids.npy", np.arange(6))
    with pytest.raises(BundleError, match=r"ids.npy: expected \[U\] bytes, got \[6\] int64"):
        MemoryMappedUserStore(tmp_path)


def test_records_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_users(tmp_path, people())
    with pytest.raises(BundleError, match=r"expected Shape\(dim=5.*, got Shape\(dim=4"):
        MemoryMappedUserStore(tmp_path, shape=Shape(5, 2, 3))
