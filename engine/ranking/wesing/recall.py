"""Sources of recall: exact search of the towers' vectors, lists of several sources as one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.ranking.data.impressions import Impressions
from engine.retrieval.exact import ExactIndex

from .dssm import Dssm

Ids = NDArray[np.int64]


class DssmSource:
    """Answers users with the items whose vectors have the highest cosine with theirs."""

    def __init__(self, dssm: Dssm, shown: Impressions) -> None:
        """Of the items of `shown`, one row each (`engine.ranking.wesing.dssm.catalogue`).

        Raises:
            ValueError: an item of two rows.
        """
        # Ascending, so that a tie goes to the lower id.
        self.item_ids, rows = np.unique(shown.item, return_index=True)
        if len(rows) != len(shown):
            raise ValueError(
                f"DssmSource: shown: expected one row an item, got {len(shown)} of {len(rows)}"
            )
        self._dssm = dssm
        vectors = np.ascontiguousarray(dssm.items(shown)[rows])
        self._index = ExactIndex(vectors, np.zeros(len(rows), np.float32))

    def recall(self, asked: Impressions, k: int) -> Ids:
        """[n, k] item ids for the user of each row, best first, -1 where there are no more."""
        found = self._index.search(self._dssm.users(asked), k).items
        ids: Ids = np.where(found < 0, -1, self.item_ids[found])
        return ids


def united(sources: Sequence[Ids]) -> Ids:
    """Lists of several sources in turns, each item once.

    Args:
        sources: [B, k_s] ids, -1 for none.
    Returns:
        [B, Σ k_s]: first places of all sources, then their second ones, ..., then -1.
    Raises:
        ValueError: no source, or numbers of rows that differ.
    """
    if len({len(source) for source in sources}) != 1:
        raise ValueError(
            f"united: expected sources of one number of rows, got {[len(s) for s in sources]}"
        )
    rank = np.concatenate([np.arange(source.shape[1]) for source in sources])
    items = np.concatenate(list(sources), 1)[:, np.argsort(rank, kind="stable")]
    by_item = np.argsort(items, axis=1, kind="stable")
    sorted_items = np.take_along_axis(items, by_item, 1)
    again = np.zeros(items.shape, np.bool_)
    repeats = np.diff(sorted_items, axis=1, prepend=-2) == 0
    np.put_along_axis(again, by_item, repeats | (sorted_items < 0), 1)
    order = np.argsort(again, axis=1, kind="stable")
    found: Ids = np.take_along_axis(np.where(again, -1, items), order, 1)
    return found


def recall_at(found: Ids, request: Ids, wanted: Impressions, objective: str) -> NDArray[np.float64]:
    """Share of each request's positive items that its list [Q, k] has, [Q]; NaN without any.

    Args:
        found: ids, row q of request q.
        request: [n] of the rows of `wanted`.
    """
    positive = wanted.frame[f"label_{objective}"].to_numpy()
    pairs = np.unique(np.stack([request[positive], wanted.item[positive]], 1), axis=0)
    hit = (found[pairs[:, 0]] == pairs[:, 1:]).any(1)
    total = np.bincount(pairs[:, 0], minlength=len(found))
    hits = np.bincount(pairs[:, 0], hit, minlength=len(found))
    return np.divide(hits, total, out=np.full(len(found), np.nan), where=total > 0)
