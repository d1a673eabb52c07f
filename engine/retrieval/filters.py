"""Masks of the filters that requests repeat."""

from collections import OrderedDict
from threading import Lock
from typing import TypeVar

from .columns import Columns
from .predicate import Mask, Predicate, compile_predicate

MAX_TEXTS = 256
_V = TypeVar("_V")


class FilterCache:
    """Least recently used masks by canonical predicate, and predicates by their text."""

    def __init__(self, columns: Columns, max_bytes: int = 64 * 2**20) -> None:
        """`max_bytes` bounds the masks, one byte an item each; one mask is always kept."""
        self._columns = columns
        self._max_bytes = max_bytes
        self._masks: OrderedDict[str, tuple[Predicate, Mask]] = OrderedDict()
        self._predicates: OrderedDict[str, Predicate] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0  # masks that were at hand, and that were evaluated

    @property
    def columns(self) -> Columns:
        """The columns that the next mask is of."""
        return self._columns

    def mask(self, text: str) -> Mask:
        """Mask [N] bool, read-only, of a filter's JSON text.

        Raises:
            RequestError: the text is not a predicate over these columns; it is not remembered.
        """
        with self._lock:
            predicate = self._predicates.get(text) or compile_predicate(text, self._columns)
            _keep(self._predicates, text, predicate, MAX_TEXTS)
            _, mask = self._masks.get(predicate.canonical, (None, None))
            if mask is None:
                self.misses += 1
                mask = predicate.evaluate()
                mask.setflags(write=False)
            else:
                self.hits += 1
            max_masks = max(1, self._max_bytes // max(1, self._columns.n_items))
            _keep(self._masks, predicate.canonical, (predicate, mask), max_masks)
            return mask

    def replace(self, columns: Columns) -> None:
        """Puts `columns` in the place of those before: every later mask is of them.

        What reads only columns that are the same objects in both is kept, so after
        `cache.replace(cache.columns.updated(changes))` no filter over other columns is evaluated
        again.
        """
        with self._lock:
            before, self._columns = self._columns, columns
            same = {name for name in columns if before.get(name) is columns[name]}
            if columns.n_items != before.n_items:
                self._predicates.clear()
                self._masks.clear()
            for text, predicate in [*self._predicates.items()]:
                if not predicate.columns <= same:
                    del self._predicates[text]
            for canonical, (predicate, _) in [*self._masks.items()]:
                if not predicate.columns <= same:
                    del self._masks[canonical]

    def __len__(self) -> int:
        return len(self._masks)


def _keep(entries: OrderedDict[str, _V], key: str, value: _V, limit: int) -> None:
    """Makes `key` the most recently used entry and drops the oldest beyond `limit`."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)
