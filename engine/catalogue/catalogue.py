"""The items that a server knows at one moment: the bundle's, and what has changed since."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.errors import BundleError, DataError
from engine.repeats import RepeatItemStatistics
from engine.retrieval.columns import Columns
from engine.sales import N_WINDOWS

from .changes import ChangeLog, ItemChange


@dataclass(frozen=True)
class Catalogue:
    """N items by index; a later catalogue of the same bundle only adds indices at the end.

    Attributes:
        item_ids: [N] int64.
        rows, candidates: [N, d_model] and [N, D] float32.
        log_p: [N] float32; a new item has that of one that nobody bought.
        active: [N] bool, whether it may be answered.
        sold: [N, N_WINDOWS] float32 of `Sales.recent` when the bundle was made, 0 of a new one.
        statistics: what the training set says of each, nothing of a new one.
        columns: for filters and explanations.
    """

    item_ids: NDArray[np.int64]
    rows: NDArray[np.float32]
    candidates: NDArray[np.float32]
    log_p: NDArray[np.float32]
    active: NDArray[np.bool_]
    sold: NDArray[np.float32]
    statistics: RepeatItemStatistics
    columns: Columns

    @classmethod
    def of(cls, bundle: Bundle) -> "Catalogue":
        """The bundle's items as they were exported."""
        items = bundle.items
        names = ("item_ids", "rows", "candidates", "log_p", "active", "sold")
        statistics = {name: items[name] for name in RepeatItemStatistics.FIELDS}
        return cls(
            **{name: items[name] for name in names},
            statistics=RepeatItemStatistics(**statistics),
            columns=bundle.columns,
        )

    @classmethod
    def current(cls, bundle: Bundle) -> "Catalogue":
        """The bundle's items with the changes that lie beside it, as a server takes them up.

        Raises:
            BundleError: the changes are unreadable, or of another bundle.
        """
        return cls.of(bundle).changed(ChangeLog.of(bundle).read())

    def __len__(self) -> int:
        return len(self.item_ids)

    def places(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [n] of each catalogue id, -1 where there is no such item."""
        if not len(self):
            return np.full(len(item_ids), -1, np.int64)
        order, ascending = self._ascending
        at = np.searchsorted(ascending, item_ids).clip(max=len(ascending) - 1)
        return np.where(ascending[at] == item_ids, order[at], -1)

    @cached_property
    def _ascending(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.item_ids)
        return order, self.item_ids[order]

    @cached_property
    def by_popularity(self) -> NDArray[np.int64]:
        """Indices of all items, most bought first."""
        best: NDArray[np.int64] = np.lexsort((np.arange(len(self)), -self.log_p))
        return best

    def changed(self, changes: Mapping[int, ItemChange]) -> "Catalogue":
        """The catalogue with changes since the export; this must be the bundle's own.

        Raises:
            BundleError: a new item lacks its row, or a value does not fit its column.
        """
        places = self.places(np.array([*changes], np.int64))
        new = {i: c for (i, c), place in zip(changes.items(), places, strict=True) if place < 0}
        old = {
            int(place): change
            for change, place in zip(changes.values(), places, strict=True)
            if place >= 0
        }
        grown = self._grown(new) if new else self
        active, rows, candidates = grown.active.copy(), grown.rows, grown.candidates
        values: dict[str, dict[int, object]] = {}
        for place, change in (*old.items(), *enumerate(new.values(), start=len(self))):
            active[place] = change.active
            for name, value in change.columns.items():
                values.setdefault(name, {})[place] = value
        replaced = {p: c for p, c in old.items() if c.row is not None and c.candidate is not None}
        if replaced:
            rows, candidates = rows.copy(), candidates.copy()
            for place, change in replaced.items():
                rows[place], candidates[place] = change.row, change.candidate
        try:
            columns = grown.columns.updated(values)  # type: ignore[arg-type]
        except DataError as error:
            raise BundleError(f"item changes: {error}") from error
        return replace(grown, active=active, rows=rows, candidates=candidates, columns=columns)

    def _grown(self, new: Mapping[int, ItemChange]) -> "Catalogue":
        """With room for new items, whose columns are null."""
        rows, candidates = [], []
        for item_id, change in new.items():
            if change.row is None or change.candidate is None:
                raise BundleError(f"item changes: item {item_id}: expected its row, got none")
            rows.append(change.row)
            candidates.append(change.candidate)
        n = len(new)
        known = {name: getattr(self.statistics, name) for name in RepeatItemStatistics.FIELDS}
        statistics = {k: np.append(array, np.zeros(n, array.dtype)) for k, array in known.items()}
        statistics["subclass"][len(self) :] = self._subclasses(new)
        nobody = self.log_p.min(initial=0)
        return Catalogue(
            item_ids=np.concatenate([self.item_ids, np.array([*new], np.int64)]),
            rows=np.concatenate([self.rows, np.stack(rows)]),
            candidates=np.concatenate([self.candidates, np.stack(candidates)]),
            log_p=np.concatenate([self.log_p, np.full(n, nobody, np.float32)]),
            active=np.concatenate([self.active, np.zeros(n, np.bool_)]),
            sold=np.concatenate([self.sold, np.zeros((n, N_WINDOWS), np.float32)]),
            statistics=RepeatItemStatistics(**statistics),
            columns=self.columns.grown(n),
        )

    def _subclasses(self, new: Mapping[int, ItemChange]) -> list[int]:
        """Codes of new items' subclasses; one that no item had gets a code of its own."""
        codes: dict[object, int] = {}
        if "subclass" in self.columns:
            names = self.columns["subclass"].take(np.arange(len(self)))
            codes = dict(zip(names, self.statistics.subclass.tolist(), strict=True))
        following = int(self.statistics.subclass.max(initial=-1)) + 1
        found = []
        for change in new.values():
            name = change.columns.get("subclass")
            if name not in codes:
                codes[name] = following
                following += 1
            found.append(codes[name])
        return found
