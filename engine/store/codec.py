"""One user as bytes, the same in every store: a header with a checksum, then the arrays.

    crc32 of the user id and all that follows · codec · flags · D · C · M · events n · repeats m ·
    sessions · time of the last session
    int64   times [n], first_time [m], last_time [m]
    4 bytes h_next [D], h_gen [D], categorical [C], numeric [M], items [n], types [n], sessions [n],
            item [m], count [m], last_session [m], decayed [m, 3]; with flag 1 all_count [m] and
            all_span [m]
    zeros up to a multiple of 8

Little-endian. Reading copies nothing: the arrays are views of the bytes.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.repeats import HALF_LIVES_DAYS, RepeatState

from .users import UserRecord

CODEC = 1
_HEADER = struct.Struct("<IHHIHHIIqq")
_CRC_BYTES, _FLAG_ALL, _ALIGNMENT = 4, 1, 8
_I64, _I32, _F32 = np.dtype("<i8"), np.dtype("<i4"), np.dtype("<f4")
_N_DECAYED, _WIDE = len(HALF_LIVES_DAYS), 3  # arrays of 8 bytes come first


class Shape(NamedTuple):
    """Lengths that all users of a model share: of the vectors and of both kinds of features."""

    dim: int
    n_categorical: int
    n_numeric: int


def user_key(user_id: str) -> bytes:
    """The id as every store has it."""
    return user_id.encode("utf-8", "surrogatepass")


def encode(record: UserRecord) -> bytes:
    """The record as bytes.

    Raises:
        ValueError: an array of another dtype or length, or a vector that is not finite; names the
            user, the array, expected, got.
    """
    repeats = record.repeats
    shape = Shape(len(record.h_next), len(record.categorical), len(record.numeric))
    n, m = len(record.items), len(repeats.item)
    has_all = repeats.all_count is not None
    parts = []
    for (name, dtype, size), array in zip(
        _layout(shape, n, m, has_all), _arrays(record, has_all), strict=True
    ):
        expected = (m, _N_DECAYED) if name == "decayed" else (size,)
        if array.dtype != dtype or array.shape != expected:
            raise ValueError(
                f"user {record.user_id!r}: {name}: expected {list(expected)} {dtype.name}, "
                f"got {list(array.shape)} {array.dtype}"
            )
        parts.append(array.tobytes())
    for name in ("h_next", "h_gen"):
        if not np.isfinite(getattr(record, name)).all():
            raise ValueError(f"user {record.user_id!r}: {name}: expected finite numbers")
    flags = _FLAG_ALL if has_all else 0
    sessions = repeats.n_sessions, repeats.last_session_time
    header = _HEADER.pack(0, CODEC, flags, *shape, n, m, *sessions)
    payload = b"".join([header[_CRC_BYTES:], *parts])
    payload += bytes(-(_CRC_BYTES + len(payload)) % _ALIGNMENT)
    crc = zlib.crc32(payload, zlib.crc32(user_key(record.user_id)))
    return crc.to_bytes(_CRC_BYTES, "little") + payload


def decode(user_id: str, data: bytes | memoryview, shape: Shape | None = None) -> UserRecord:
    """The record that `encode` made of this user; its arrays are read-only views of `data`.

    Args:
        user_id: whose it should be.
        data: as `encode` made it.
        shape: what the model expects; None takes any.
    Raises:
        ValueError: the bytes are damaged, another user's, of another codec or shape.
    """
    got, flags, n, m, n_sessions, last_session_time = _open(data)
    if shape is not None and got != shape:
        raise ValueError(f"expected {shape}, got {got}")
    layout = _layout(got, n, m, bool(flags & _FLAG_ALL))
    n_wide, n_narrow = n + 2 * m, 0
    for _, _, length in layout[_WIDE:]:
        n_narrow += length
    size = _HEADER.size + _I64.itemsize * n_wide + _I32.itemsize * n_narrow
    if len(data) != size + -size % _ALIGNMENT:
        raise ValueError(f"expected {size + -size % _ALIGNMENT} bytes, got {len(data)}")
    if zlib.crc32(data[_CRC_BYTES:], zlib.crc32(user_key(user_id))) != int.from_bytes(
        data[:_CRC_BYTES], "little"
    ):
        raise ValueError("expected the checksum of its bytes, got another")
    # Slices of two arrays: an array from the bytes each costs three times as much.
    wide = np.frombuffer(data, _I64, n_wide, _HEADER.size)
    narrow = np.frombuffer(data, _I32, n_narrow, _HEADER.size + wide.nbytes)
    floats = narrow.view(_F32)
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for place, (name, dtype, length) in enumerate(layout):
        if place == _WIDE:
            at = 0
        source: NDArray[Any] = wide if place < _WIDE else floats if dtype is _F32 else narrow
        arrays[name] = source[at : at + length]
        at += length
    arrays["decayed"] = arrays["decayed"].reshape(m, _N_DECAYED)
    return UserRecord(
        user_id=user_id,
        **{name: arrays[name] for name in _OF_USER},
        repeats=RepeatState(
            **{name: arrays[name] for name in RepeatState.FIELDS},
            n_sessions=n_sessions,
            last_session_time=last_session_time,
            all_count=arrays.get("all_count"),
            all_span=arrays.get("all_span"),
        ),
    )


def shape_of(data: bytes | memoryview) -> Shape:
    """The shape in a record's header. Raises ValueError for another codec or too few bytes."""
    return _open(data)[0]


_OF_USER = (
    "h_next", "h_gen", "categorical", "numeric", "items", "times", "types", "sessions",
)  # fmt: skip


def _open(data: bytes | memoryview) -> tuple[Shape, int, int, int, int, int]:
    """A header's shape, flags, events, repeats, sessions and time of the last session."""
    if len(data) < _HEADER.size:
        raise ValueError(f"expected at least {_HEADER.size} bytes, got {len(data)}")
    _, codec, flags, dim, n_categorical, n_numeric, *rest = _HEADER.unpack_from(data)
    if codec != CODEC:
        raise ValueError(f"expected codec {CODEC}, got {codec}")
    n, m, n_sessions, last_session_time = rest
    return Shape(dim, n_categorical, n_numeric), flags, n, m, n_sessions, last_session_time


def _layout(shape: Shape, n: int, m: int, has_all: bool) -> list[tuple[str, np.dtype[Any], int]]:
    """(name, dtype, entries) of the arrays in their order."""
    layout: list[tuple[str, np.dtype[Any], int]] = [
        ("times", _I64, n),
        ("first_time", _I64, m),
        ("last_time", _I64, m),
        ("h_next", _F32, shape.dim),
        ("h_gen", _F32, shape.dim),
        ("categorical", _I32, shape.n_categorical),
        ("numeric", _F32, shape.n_numeric),
        ("items", _I32, n),
        ("types", _I32, n),
        ("sessions", _I32, n),
        ("item", _I32, m),
        ("count", _F32, m),
        ("last_session", _I32, m),
        ("decayed", _F32, m * _N_DECAYED),
    ]
    if has_all:
        layout += [("all_count", _F32, m), ("all_span", _F32, m)]
    return layout


def _arrays(record: UserRecord, has_all: bool) -> list[NDArray[Any]]:
    """The record's arrays in the order of `_layout`."""
    r = record.repeats
    arrays: list[NDArray[Any]] = [
        record.times, r.first_time, r.last_time, record.h_next, record.h_gen, record.categorical,
        record.numeric, record.items, record.types, record.sessions, r.item, r.count,
        r.last_session, r.decayed,
    ]  # fmt: skip
    if has_all:
        assert r.all_count is not None
        assert r.all_span is not None
        arrays += [r.all_count, r.all_span]
    return arrays
