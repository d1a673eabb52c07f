"""What the daily refresh knows of a user, and how the request path asks for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.repeats import RepeatState

from .versions import Version


@dataclass(frozen=True)
class UserRecord:
    """One user at the time of the refresh.

    Attributes:
        h_next, h_gen: [D] float32, both vectors before the context offset.
        categorical: [C] int32 codes, 0 unknown. numeric: [M] float32 standardised, NaN unknown.
        items, types, sessions: [n] int32, the whole history, oldest event first.
        times: [n] int64 unix seconds.
        repeats: the user's repeat items.
    """

    user_id: str
    h_next: NDArray[np.float32]
    h_gen: NDArray[np.float32]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    types: NDArray[np.int32]
    sessions: NDArray[np.int32]
    repeats: RepeatState


# What a store counts beside its answers:
ERRORS = (
    "record",  # a record that is damaged; its user was answered as unknown
    "expired",  # a user whose version is past its time-to-live; answered as unknown
    "version",  # a published version that cannot be served; the one before it still is
    "down",  # batches that the store did not answer in time
)


class UserStore(Protocol):
    """Any key-value store of users.

    Attributes:
        version: what is served; None before anything was read.
        errors: by ERRORS, since the start.
    """

    version: Version | None
    errors: Counter[str]

    def get_many(self, user_ids: Sequence[str]) -> list[UserRecord | None]:
        """Records in the order of `user_ids`, all of one version; None for a user that is unknown.

        Raises:
            StoreError: the store cannot answer; names it and the reason.
        """
        ...

    def __len__(self) -> int:
        """Users stored."""
        ...
