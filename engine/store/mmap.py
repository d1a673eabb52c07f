"""Users in three memory-mapped files: sorted ids, where each record begins, and the records.

ids.npy        [U] bytes 'S', ascending
offsets.npy    [U + 1] int64
records.bin    what `codec.encode` made of each user, one after the other
"""

import mmap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BundleError

from .codec import Shape, decode, encode, shape_of, user_key
from .users import ERRORS, UserRecord
from .versions import Version

IDS, OFFSETS, RECORDS = "ids.npy", "offsets.npy", "records.bin"
FILES = (IDS, OFFSETS, RECORDS)
Part = tuple[NDArray[np.bytes_], NDArray[np.int64], bytes]  # ids, offsets, records


def write_users(folder: Path, users: Iterable[UserRecord]) -> None:
    """Writes the files of MemoryMappedUserStore into `folder`, which is made if missing.

    Raises:
        ValueError: ids that are not ascending, unique and filled, or a record that `encode`
            refuses.
    """
    write_parts(folder, [as_part([(user_key(user.user_id), encode(user)) for user in users])])


def as_part(records: Sequence[tuple[bytes, bytes]]) -> Part:
    """(key, encoded record) of some users, in the form of the files."""
    keys = [key for key, _ in records]
    ids = np.array(keys, f"S{max(map(len, keys), default=1)}")
    offsets = np.cumsum([0, *(len(record) for _, record in records)], dtype=np.int64)
    return ids, offsets, b"".join(record for _, record in records)


def write_parts(folder: Path, parts: Iterable[Part]) -> None:
    """Writes the same files from parts of ids [u], offsets [u + 1] and encoded records.

    Raises:
        ValueError: ids that are not ascending, unique and filled from the first part to the last.
    """
    all_ids: list[NDArray[np.bytes_]] = [np.empty(0, "S1")]
    all_offsets = [np.zeros(1, np.int64)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RECORDS).open("wb") as file:
        for ids, offsets, records in parts:
            all_ids.append(ids)
            all_offsets.append(offsets[1:] + all_offsets[-1][-1])
            file.write(records)
    ids = np.concatenate(all_ids)
    ascending = np.less(ids[:-1], ids[1:])  # np.char.less would ignore spaces at the end
    if len(ids) and (ids[0] == b"" or not ascending.all()):
        place = int(np.argmin(ascending)) if not ascending.all() else 0
        raise ValueError(
            "write_users: user ids: expected filled, ascending and unique ones, "
            f"got {ids[place : place + 2].tolist()} at {place}"
        )
    np.save(folder / IDS, ids, allow_pickle=False)
    np.save(folder / OFFSETS, np.concatenate(all_offsets), allow_pickle=False)


class MemoryMappedUserStore:
    """UserStore over the files of `write_users`; records are read-only views of the files.

    Opening maps the files and looks at their headers and ends, so it takes as long for a million
    users as for one; a lookup touches the pages of a binary search and those of the record.

    Args:
        folder: of the files.
        version: what the files are.
        shape: what the model expects of each record; None takes the first record's.
    Raises:
        BundleError: a file is missing, unreadable or does not fit the others or `shape`.
    """

    def __init__(self, folder: Path, version: Version | None = None, shape: Shape | None = None):
        self.version, self.errors = version, Counter(dict.fromkeys(ERRORS, 0))
        self._ids: NDArray[np.bytes_] = _map(folder / IDS, "S", "[U] bytes")
        self._offsets: NDArray[np.int64] = _map(folder / OFFSETS, "i", "[U + 1] integers")
        try:
            with (folder / RECORDS).open("rb") as file:
                size = file.seek(0, 2)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
                if isinstance(mapped, mmap.mmap):
                    # Users come in no order: reading ahead would fetch others, and take longer.
                    mapped.madvise(mmap.MADV_RANDOM)
        except OSError as error:
            raise BundleError(f"{folder / RECORDS}: expected records, got {error}") from error
        self._records = memoryview(mapped)
        if len(self._offsets) != len(self._ids) + 1:
            raise BundleError(
                f"{folder / OFFSETS}: expected {len(self._ids) + 1} entries, "
                f"got {len(self._offsets)}"
            )
        if (self._offsets[0], self._offsets[-1]) != (0, size):
            raise BundleError(
                f"{folder / RECORDS}: expected {self._offsets[-1]} bytes, from "
                f"{self._offsets[0]} on, got {size}"
            )
        self.shape = shape
        if len(self._ids):
            try:
                first = shape_of(self._bytes(0))
            except ValueError as error:
                raise BundleError(f"{folder / RECORDS}: {error}") from error
            if shape not in (None, first):
                raise BundleError(f"{folder / RECORDS}: expected {shape}, got {first}")
            self.shape = first

    def __len__(self) -> int:
        return len(self._ids)

    def get_many(self, user_ids: Sequence[str]) -> list[UserRecord | None]:
        """Records in the order of `user_ids`, None for a user that is not stored."""
        keys = [_key(user_id, self._ids.dtype.itemsize) for user_id in user_ids]
        if not len(self._ids):
            return [None] * len(keys)
        # A key of another width would make numpy convert, that is read, every stored id.
        wanted = np.array([key or b"" for key in keys], self._ids.dtype)
        places = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        found = (self._ids[places] == wanted).tolist()
        return [
            self._record(user_id, place) if key and match else None
            for user_id, key, place, match in zip(
                user_ids, keys, places.tolist(), found, strict=True
            )
        ]

    def _record(self, user_id: str, place: int) -> UserRecord | None:
        try:
            return decode(user_id, self._bytes(place), self.shape)
        except ValueError:
            self.errors["record"] += 1
            return None

    def _bytes(self, place: int) -> memoryview:
        return self._records[int(self._offsets[place]) : int(self._offsets[place + 1])]


def _key(user_id: str, width: int) -> bytes | None:
    """The id as it is stored, None where no stored id can equal it."""
    key = user_key(user_id)
    # 'S' arrays cut longer ids and drop zero bytes at the end: both would find somebody else.
    return None if len(key) > width or key.endswith(b"\0") else key


def _map(path: Path, kind: str, what: str) -> NDArray[Any]:
    try:
        # Unlike np.load this reads nothing but .npy, and never Python objects.
        mapped = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: expected a plain .npy array, got {error}") from error
    if mapped.dtype.kind != kind or mapped.ndim != 1:
        raise BundleError(f"{path}: expected {what}, got {list(mapped.shape)} {mapped.dtype}")
    return np.asarray(mapped)  # slices of np.memmap cost microseconds each
