"""Candidates of a batch's positions and the chance π that each came in.

A position lists its own candidates: targets and same-page items for certain, its history (a long
one is sampled), items of its targets' subclasses. Everything else comes from the shared items. A
shared item that the position could also have got from its history or its subclasses is listed as
its own, since only there it carries its own chance and its repeat term.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.config import TrainConfig

from .history import Past

Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """(position, item) pairs, [n] int64 each, by position; weight [n] float32, which sums to 1 in
    a position, or None for the same weight each."""

    position: Ints
    item: Ints
    weight: NDArray[np.float32] | None = None

    def rows(self, rows: Ints) -> "Pairs":
        """Those of the given rows; weights sum to 1 again."""
        position = self.position[rows]
        weight = None if self.weight is None else self.weight[rows]
        if weight is not None:
            weight = (weight / np.bincount(position, weight)[position]).astype(np.float32)
        return Pairs(position, self.item[rows], weight)

    @staticmethod
    def of(lists: list[Ints]) -> "Pairs":
        """One list of items a position."""
        position = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
        return Pairs(position, np.concatenate(lists).astype(np.int64))


@dataclass(frozen=True)
class Drawn:
    """Candidates of P positions; own ones flat, by (position, item).

    Attributes:
        shared: [S] int64 unique items; shared_log_pi: [S] float32.
        position, item: [n] int64; log_pi: [n] float32; negative: [n] bool.
        weight_next, weight_general: [n] float32, 1 / |T| for each target of either head.
        history: [n] int64, row of the item in the concatenated histories, -1 if never bought.
    """

    shared: Ints
    shared_log_pi: NDArray[np.float32]
    position: Ints
    item: Ints
    log_pi: NDArray[np.float32]
    negative: NDArray[np.bool_]
    weight_next: NDArray[np.float32]
    weight_general: NDArray[np.float32]
    history: Ints


class CandidateSampler:
    """Draws candidates of one past."""

    def __init__(self, past: Past, config: TrainConfig) -> None:
        self._config = config
        self._n_items = len(past.dataset.item_ids)
        self._subclass = past.dataset.item_subclass.astype(np.int64)
        self._catalogue = past.catalogue
        group = self._subclass[past.catalogue]
        self._members = past.catalogue[np.argsort(group, kind="stable")]
        self._group_size = np.bincount(group, minlength=len(past.dataset.meta.subclasses))
        self._group_start = np.cumsum(self._group_size) - self._group_size
        self._share = past.counts / max(past.counts.sum(), 1)
        self._n_uniform = min(config.shared_uniform, len(past.catalogue))
        self._uniform = np.zeros(self._n_items)
        self._uniform[past.catalogue] = self._n_uniform / max(len(past.catalogue), 1)

    def draw(
        self,
        histories: list[NDArray[np.int32]],
        following: Pairs,
        general: Pairs,
        pages: Pairs,
        rng: np.random.Generator,
    ) -> Drawn:
        """Candidates of the positions.

        Args:
            histories: [P] item indices that each position's user bought before.
            following: targets of L_next, general: of L_gen; every position has some of either.
            pages: items shown on the target's pages and not clicked.
            rng: source of every draw.
        """
        n = self._n_items
        n_positive = min(self._config.shared_positive, len(following.item))
        uniform = rng.choice(self._catalogue, self._n_uniform, replace=False)
        positive = rng.choice(following.item, n_positive, replace=False)
        shared = np.unique(np.concatenate([uniform, positive]))
        sizes = np.array([len(items) for items in histories])
        history = Pairs.of([items.astype(np.int64) for items in histories])
        history_chance = np.minimum(self._config.history_candidates / np.maximum(sizes, 1), 1.0)
        is_shared = np.zeros(n, bool)
        is_shared[shared] = True
        kept = rng.random(len(history.item)) < history_chance[history.position]
        kept |= is_shared[history.item]

        certain = np.concatenate([_key(pairs, n) for pairs in (following, general, pages)])
        alike = (self._same_subclass(following, rng), self._shared_subclass(following, shared))
        key = np.unique(np.concatenate([certain, _key(history, n)[kept], *alike]))
        position, item = key // n, key % n
        history_row = _find(_key(history, n), key)
        bought = history_row >= 0
        by_history = np.where(bought, history_chance[position], 0.0)
        by_subclass = self._subclass_chance(following, position, item)
        missed = (1 - by_history) * (1 - by_subclass) * (1 - self._shared_chance(item, n_positive))
        weight_next, weight_general = _weights(following, key, n), _weights(general, key, n)
        log_pi = np.where(_find(certain, key) >= 0, 0.0, np.log(np.maximum(1 - missed, 1e-12)))
        is_target = (weight_next > 0) | (weight_general > 0)
        on_page = _find(_key(pages, n), key) >= 0
        return Drawn(
            shared=shared,
            shared_log_pi=np.log(self._shared_chance(shared, n_positive)).astype(np.float32),
            position=position,
            item=item,
            log_pi=log_pi.astype(np.float32),
            negative=~is_target & (on_page | (~bought & (by_subclass > 0))),
            weight_next=weight_next,
            weight_general=weight_general,
            history=history_row,
        )

    def _same_subclass(self, targets: Pairs, rng: np.random.Generator) -> Ints:
        """Keys of items drawn from the subclasses of each position's targets."""
        draws = self._config.subclass_negatives
        position, first, count = np.unique(targets.position, return_index=True, return_counts=True)
        shape = (len(position), draws)
        pick = first[:, None] + (rng.random(shape) * count[:, None]).astype(np.int64)
        group = self._subclass[targets.item[pick]]
        inside = (rng.random(shape) * self._group_size[group]).astype(np.int64)
        item = self._members[self._group_start[group] + inside]
        keys: Ints = (position[:, None] * self._n_items + item).ravel()
        return keys

    def _shared_subclass(self, targets: Pairs, shared: Ints) -> Ints:
        """Keys of the shared items in the subclasses of each position's targets."""
        if not self._config.subclass_negatives:
            return np.zeros(0, np.int64)
        group = self._subclass[shared]
        order = np.argsort(group, kind="stable")
        start = np.searchsorted(group[order], np.arange(len(self._group_size) + 1))
        wanted = self._subclass[targets.item]
        size = np.diff(start)[wanted]
        inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        item = shared[order[np.repeat(start[wanted], size) + inside]]
        keys: Ints = np.repeat(targets.position, size) * self._n_items + item
        return keys

    def _subclass_chance(self, targets: Pairs, position: Ints, item: Ints) -> NDArray[np.float64]:
        """Chance [n] that the subclass draws of `position` hit `item`."""
        n_groups = len(self._group_size)
        keys, hits = np.unique(
            targets.position * n_groups + self._subclass[targets.item], return_counts=True
        )
        n_targets = np.bincount(targets.position)
        group = self._subclass[item]
        row = _find(keys, position * n_groups + group)
        share = np.where(row >= 0, hits[row], 0) / n_targets[position]
        once = share / np.maximum(self._group_size[group], 1)
        chance: NDArray[np.float64] = 1 - (1 - once) ** self._config.subclass_negatives
        return chance

    def _shared_chance(self, item: Ints, n_positive: int) -> NDArray[np.float64]:
        """Chance [n] to be among the shared items: drawn evenly, or as a target, by popularity."""
        missed = (1 - self._uniform[item]) * (1 - self._share[item]) ** n_positive
        chance: NDArray[np.float64] = 1 - missed
        return chance


def _key(pairs: Pairs, n_items: int) -> Ints:
    return pairs.position * n_items + pairs.item


def _find(haystack: Ints, needles: Ints) -> Ints:
    """Place of each needle in the haystack, -1 where it is not there."""
    if not len(haystack):
        return np.full(len(needles), -1)
    order = np.argsort(haystack, kind="stable")
    at = np.searchsorted(haystack[order], needles).clip(max=len(haystack) - 1)
    return np.where(haystack[order[at]] == needles, order[at], -1)


def _weights(targets: Pairs, key: Ints, n_items: int) -> NDArray[np.float32]:
    """The targets' weights, 1 / |T| unless given, 0 elsewhere; `key` is sorted and holds them."""
    weights = np.zeros(len(key), np.float32)
    count = np.bincount(targets.position)
    own = 1 / count[targets.position] if targets.weight is None else targets.weight
    weights[np.searchsorted(key, _key(targets, n_items))] = own
    return weights
