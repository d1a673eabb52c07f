"""Users in memory-mapped .npy files: sorted ids, flat arrays and the offsets of each user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BundleError
from engine.repeats import RepeatState

from .users import UserRecord

IDS = "user_ids"
EVENTS = {"item": np.int32, "time": np.int64, "type": np.int32, "session": np.int32}
REPEATS = {
    "item": np.int32,
    "count": np.float32,
    "first_time": np.int64,
    "last_time": np.int64,
    "last_session": np.int32,
    "decayed": np.float32,
}
# name -> (dtype, dimensions, what its first dimension counts)
LAYOUT: dict[str, tuple[type, int, str]] = {
    "h_next": (np.float32, 2, "users"),
    "h_gen": (np.float32, 2, "users"),
    "categorical": (np.int32, 2, "users"),
    "numeric": (np.float32, 2, "users"),
    "n_sessions": (np.int32, 1, "users"),
    "last_session_time": (np.int64, 1, "users"),
    "event_offsets": (np.int64, 1, "users + 1"),
    "repeat_offsets": (np.int64, 1, "users + 1"),
    **{f"event_{name}": (dtype, 1, "events") for name, dtype in EVENTS.items()},
    **{
        f"repeat_{name}": (dtype, 2 if name == "decayed" else 1, "repeats")
        for name, dtype in REPEATS.items()
    },
}
FILES = tuple(f"{name}.npy" for name in (IDS, *LAYOUT))


@dataclass(frozen=True)
class UserArrays:
    """All users as flat arrays, users by ascending id.

    Attributes:
        user_ids: [U] bytes 'S', ascending, unique, UTF-8, none empty.
        h_next, h_gen: [U, D] float32. categorical: [U, C] int32. numeric: [U, M] float32.
        event_offsets: [U + 1] int64; events of user u are event_*[offsets[u]:offsets[u + 1]].
        event_item, event_type, event_session: [E] int32. event_time: [E] int64.
        repeats: [U] states.
    """

    user_ids: NDArray[np.bytes_]
    h_next: NDArray[np.float32]
    h_gen: NDArray[np.float32]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    event_offsets: NDArray[np.int64]
    event_item: NDArray[np.int32]
    event_time: NDArray[np.int64]
    event_type: NDArray[np.int32]
    event_session: NDArray[np.int32]
    repeats: Sequence[RepeatState]


def write_users(folder: Path, users: UserArrays) -> None:
    """Writes the files of MemoryMappedUserStore into `folder`, which is made if missing.

    Raises:
        ValueError: ids that are not ascending, unique and filled, or arrays that do not fit
            together; names the array, expected, got.
    """
    ids = users.user_ids
    if ids.dtype.kind != "S" or ids.ndim != 1 or (len(ids) and ids[0] == b""):
        raise ValueError(
            f"write_users: user_ids: expected [U] bytes, none empty, got {list(ids.shape)} "
            f"{ids.dtype}"
        )
    ascending = np.less(ids[:-1], ids[1:])  # np.char.less would ignore spaces at the end
    if not ascending.all():
        place = int(np.argmin(ascending))
        raise ValueError(
            "write_users: user_ids: expected ascending and unique, "
            f"got {ids[place]!r} before {ids[place + 1]!r}"
        )
    if len(users.repeats) != len(ids):
        raise ValueError(
            f"write_users: repeats: expected {len(ids)} states, got {len(users.repeats)}"
        )
    arrays = {
        name: np.ascontiguousarray(getattr(users, name)) for name in LAYOUT if hasattr(users, name)
    }
    arrays |= _flat_repeats(users.repeats)
    try:
        _check(arrays, len(ids))
    except ValueError as error:
        raise ValueError(f"write_users: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {IDS: ids, **arrays}.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


class MemoryMappedUserStore:
    """UserStore over the files of `write_users`; records are read-only views of the files.

    Opening maps the files and checks their headers and ends, so it takes as long for a million
    users as for one; a lookup touches the pages of a binary search and those of the record.
    """

    def __init__(self, folder: Path) -> None:
        """Raises BundleError for a file that is missing, unreadable or does not fit the others."""
        arrays = {name: _map(folder / f"{name}.npy") for name in (IDS, *LAYOUT)}
        self._ids: NDArray[np.bytes_] = arrays.pop(IDS)
        if self._ids.dtype.kind != "S" or self._ids.ndim != 1:
            raise BundleError(
                f"{folder / IDS}.npy: expected [U] bytes, got {list(self._ids.shape)} "
                f"{self._ids.dtype}"
            )
        try:
            _check(arrays, len(self._ids))
        except ValueError as error:
            raise BundleError(f"{folder}: {error}") from error
        self._arrays = arrays
        self.dim: int = arrays["h_next"].shape[1]
        self.n_categorical: int = arrays["categorical"].shape[1]
        self.n_numeric: int = arrays["numeric"].shape[1]

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

    def _record(self, user_id: str, place: int) -> UserRecord:
        arrays = self._arrays
        events = _range(arrays["event_offsets"], place)
        rows = _range(arrays["repeat_offsets"], place)
        repeats = {field: arrays[f"repeat_{field}"][rows] for field in RepeatState.FIELDS}
        return UserRecord(
            user_id=user_id,
            h_next=arrays["h_next"][place],
            h_gen=arrays["h_gen"][place],
            categorical=arrays["categorical"][place],
            numeric=arrays["numeric"][place],
            items=arrays["event_item"][events],
            times=arrays["event_time"][events],
            types=arrays["event_type"][events],
            sessions=arrays["event_session"][events],
            repeats=RepeatState(
                **repeats,
                n_sessions=int(arrays["n_sessions"][place]),
                last_session_time=int(arrays["last_session_time"][place]),
            ),
        )


def _range(offsets: NDArray[np.int64], place: int) -> slice:
    return slice(int(offsets[place]), int(offsets[place + 1]))


def _key(user_id: str, width: int) -> bytes | None:
    """The id as it is stored, None where no stored id can equal it."""
    key = user_id.encode("utf-8", "surrogatepass")
    # 'S' arrays cut longer ids and drop zero bytes at the end: both would find somebody else.
    return None if len(key) > width or key.endswith(b"\0") else key


def _map(path: Path) -> NDArray[Any]:
    try:
        # Unlike np.load this reads nothing but .npy, and never Python objects.
        mapped = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: expected a plain .npy array, got {error}") from error
    return np.asarray(mapped)  # slices of np.memmap cost microseconds each


def _flat_repeats(states: Sequence[RepeatState]) -> dict[str, NDArray[Any]]:
    """The states' arrays one after the other, with their offsets and scalars."""
    flat: dict[str, NDArray[Any]] = {
        "n_sessions": np.array([state.n_sessions for state in states], np.int32),
        "last_session_time": np.array([state.last_session_time for state in states], np.int64),
        "repeat_offsets": np.cumsum([0, *(len(state.item) for state in states)], dtype=np.int64),
    }
    for name, dtype in REPEATS.items():
        shape = (0, 3) if name == "decayed" else (0,)
        parts = [np.empty(shape, dtype), *(getattr(state, name) for state in states)]
        flat[f"repeat_{name}"] = np.concatenate(parts)
    return flat


def _check(arrays: Mapping[str, NDArray[Any]], n_users: int) -> None:
    """Raises ValueError unless dtypes, dimensions and lengths fit; reads the offsets' ends only."""
    sizes = {"users": n_users, "users + 1": n_users + 1}
    for name, (dtype, n_dim, _) in LAYOUT.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != n_dim:
            raise ValueError(
                f"{name}: expected {n_dim} dimensions of {np.dtype(dtype)}, "
                f"got {list(arrays[name].shape)} {arrays[name].dtype}"
            )
    for counted, offsets in (("events", "event_offsets"), ("repeats", "repeat_offsets")):
        if len(arrays[offsets]) == n_users + 1:
            sizes[counted] = int(arrays[offsets][-1])
            if arrays[offsets][0] != 0:
                raise ValueError(f"{offsets}: expected to begin with 0, got {arrays[offsets][0]}")
    for name, (_, _, counted) in LAYOUT.items():
        expected = sizes.get(counted)
        if expected is not None and len(arrays[name]) != expected:
            raise ValueError(
                f"{name}: expected {expected} entries ({counted}), got {len(arrays[name])}"
            )
    if arrays["h_next"].shape != arrays["h_gen"].shape:
        raise ValueError(
            f"h_gen: expected {list(arrays['h_next'].shape)} as h_next, "
            f"got {list(arrays['h_gen'].shape)}"
        )
