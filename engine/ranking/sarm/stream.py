"""Impressions in time order as SARM reads them: authors, anchors in force, authors last clicked."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from ..auc import Ids
from ..data.impressions import Impressions
from ..features import Features, Inputs
from .anchors import author_column, in_force

CLICK = "click"


@dataclass(frozen=True)
class Stream:
    """n impressions of R requests, of A authors."""

    inputs: Inputs
    labels: Tensor  # [n, M] float32
    time: Ids  # [n] unix seconds, ascending
    authors: Ids  # [A] ids, ascending
    author: Ids  # [n] place in `authors`
    anchors: pl.DataFrame  # in order of author and time
    anchor: Ids  # [n] row of `anchors` that holds, -1 where none does
    request: Ids  # [n] in 0..R - 1
    history: Ids  # [R, m] places in `authors`, the last click last, -1 before the first

    def __len__(self) -> int:
        return len(self.time)

    def held(self, now: int) -> Ids:
        """[A] row of `anchors` that holds for each author at a time, -1 where none does."""
        return in_force(self.anchors, self.authors, np.full(len(self.authors), now, np.int64))


def stream(log: Impressions, anchors: pl.DataFrame, features: Features, history: int) -> Stream:
    """A log beside checked anchors.

    Args:
        history: m, how many authors a user's history holds: those of the last clicks before the
            request began, an author as often as clicked.
    Raises:
        DataError: the log has other objectives than `features`.
        ValueError: no objective `click`.
    """
    if CLICK not in log.objectives:
        raise ValueError(f"sarm: objectives: expected {CLICK} among them, got {log.objectives}")
    ids = log.frame[author_column(log)].to_numpy().astype(np.int64)
    authors = np.union1d(ids, anchors["author_id"].to_numpy())
    author = np.searchsorted(authors, ids)
    return Stream(
        features.read(log),
        features.labels(log),
        log.time,
        authors,
        author,
        anchors,
        in_force(anchors, ids, log.time),
        log.request,
        last_clicked(log, author, history),
    )


def last_clicked(log: Impressions, author: Ids, m: int) -> Ids:
    """Authors of a user's last m clicks at an earlier time than the request's first row, [R, m]."""
    request, user, time = log.request, log.user, log.time
    first = np.unique(request, return_index=True)[1]  # rows are in order of time
    clicked = np.flatnonzero(log.labels[:, log.objectives.index(CLICK)])
    clicked = clicked[np.argsort(user[clicked], kind="stable")]  # by user, then time
    key = _key(user[clicked], time[clicked])
    begins, ends = (np.searchsorted(key, _key(user[first], t)) for t in (0, time[first]))
    at = ends[:, None] - np.arange(m, 0, -1)  # [R, m]
    inside = at >= begins[:, None]
    found = np.full(at.shape, -1, np.int64)
    found[inside] = author[clicked][at[inside]]
    return found


def _key(user: Ids, time: Ids | int) -> NDArray[np.int64]:
    """Ascending by user, then time."""
    return user * 2**32 + time
