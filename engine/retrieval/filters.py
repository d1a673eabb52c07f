"""Masks of the filters that requests repeat."""

from collections import OrderedDict
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .predicate import Predicate, compile_predicate

MAX_TEXTS = 256
_V = TypeVar("_V")


class FilterCache:
    """Least recently used masks by canonical predicate, and predicates by their text."""

    def __init__(self, columns: Columns, max_bytes: int = 64 * 2**20) -> None:
        """`max_bytes` bounds the masks, one byte an item each; one mask is always kept."""
        self._columns = columns
        self._max_masks = max(1, max_bytes // max(1, columns.n_items))
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._predicates: OrderedDict[str, Predicate] = OrderedDict()
        self._lock = Lock()

    def mask(self, text: str) -> NDArray[np.bool_]:
        """Mask [N] bool, read-only, of a filter's JSON text.

        Raises:
            RequestError: the text is not a predicate over these columns; it is not remembered.
        """
        with self._lock:
            predicate = self._predicates.get(text) or compile_predicate(text, self._columns)
            _keep(self._predicates, text, predicate, MAX_TEXTS)
            mask = self._masks.get(predicate.canonical)
            if mask is None:
                mask = predicate.evaluate()
                mask.setflags(write=False)
            _keep(self._masks, predicate.canonical, mask, self._max_masks)
            return mask

    def __len__(self) -> int:
        return len(self._masks)


def _keep(entries: OrderedDict[str, _V], key: str, value: _V, limit: int) -> None:
    """Makes `key` the most recently used entry and drops the oldest beyond `limit`."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)
