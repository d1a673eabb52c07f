from collections import Counter
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.training.history import Past, past
from engine.training.sampling import CandidateSampler, Drawn, Pairs
from tests.tiny import tiny_config, tiny_shop

NONE = np.zeros(0, np.int64)


@cache
def shop_past() -> Past:
    return past(tiny_shop(), 1_800_000_000, 1.0, ("purchase",))


def sampler(**changes: int) -> CandidateSampler:
    quiet = {"shared_positive": 0, "shared_uniform": 6, "subclass_negatives": 3}
    return CandidateSampler(shop_past(), tiny_config(**quiet | changes).train)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


# Three positions: a history that is sampled and one that is whole, both overlapping the targets'
# subclasses (item mod 18); targets that were bought before; two targets of one subclass.
HISTORIES = [ints(1, 2, 3, 4, 5, 19, 20, 21, 40, 50).astype(np.int32), ints(7, 25).astype(np.int32),
             NONE.astype(np.int32)]  # fmt: skip
FOLLOWING = Pairs.of([ints(1, 37), ints(25, 43, 8), ints(0)])
GENERAL = Pairs.of([ints(1, 37, 58), ints(8, 25, 43), ints(0, 2, 4)])
PAGES = Pairs.of([ints(9, 2), NONE, ints(36)])


def draws(source: CandidateSampler, n: int) -> list[Drawn]:
    rng = np.random.default_rng(5)
    return [source.draw(HISTORIES, FOLLOWING, GENERAL, PAGES, rng) for _ in range(n)]


def candidates(drawn: Drawn, position: int) -> dict[int, float]:
    """item -> log π of all that the softmax of a position runs over, each item once."""
    own = drawn.position == position
    shared = dict(zip(drawn.shared.tolist(), drawn.shared_log_pi.tolist(), strict=True))
    return shared | dict(zip(drawn.item[own].tolist(), drawn.log_pi[own].tolist(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"history_candidates": 4},
        {"history_candidates": 4, "subclass_negatives": 0},
        {"history_candidates": 1, "subclass_negatives": 20, "shared_uniform": 20},
        {"history_candidates": 99, "shared_uniform": 40},
    ],
)
def test_pi_is_the_chance_that_a_candidate_came_in(changes: dict[str, int]) -> None:
    n = 1500
    found: list[Counter[int]] = [Counter(), Counter(), Counter()]
    chance: list[dict[int, float]] = [{}, {}, {}]
    for drawn in draws(sampler(**changes), n):
        for position in range(3):
            for item, log_pi in candidates(drawn, position).items():
                found[position][item] += 1
                assert chance[position].setdefault(item, log_pi) == pytest.approx(log_pi)
    for position in range(3):
        pi = np.exp([chance[position].get(item, -np.inf) for item in range(60)])
        assert (pi > 0).all(), "an item of the catalogue that never comes in"
        share = np.array([found[position][item] for item in range(60)]) / n
        error = np.sqrt(pi * (1 - pi) / n)
        assert (np.abs(share - pi) <= 4.5 * error + 1e-6).all()


@pytest.mark.parametrize("history_candidates", [3, 99])
def test_the_sum_over_candidates_is_the_whole_catalogues(history_candidates: int) -> None:
    z = np.random.default_rng(1).normal(size=60)
    source = sampler(history_candidates=history_candidates)
    sums = np.array(
        [
            [
                sum(np.exp(z[item] - log_pi) for item, log_pi in candidates(drawn, p).items())
                for p in range(3)
            ]
            for drawn in draws(source, 1500)
        ]
    )
    error = sums.std(axis=0) / np.sqrt(len(sums))
    assert (np.abs(sums.mean(axis=0) - np.exp(z).sum()) < 4 * error).all()
    assert (error < 0.05 * np.exp(z).sum()).all()


def test_other_positions_targets_come_in_by_popularity() -> None:
    """Over batches whose targets follow the shares, the sum is right to the 1/P of its own."""
    counts = shop_past().counts
    share = counts / counts.sum()
    z = np.random.default_rng(2).normal(size=60)
    source, rng = sampler(shared_positive=48), np.random.default_rng(3)
    n_positions, sums = 64, []
    for _ in range(200):
        targets = Pairs.of(list(rng.choice(60, (n_positions, 1), p=share)))
        none = Pairs.of([NONE] * n_positions)
        nothing = [NONE.astype(np.int32)] * n_positions
        drawn = source.draw(nothing, targets, targets, none, rng)
        sums += [
            sum(np.exp(z[item] - log_pi) for item, log_pi in candidates(drawn, p).items())
            for p in range(0, n_positions, 16)
        ]
    assert np.mean(sums) == pytest.approx(np.exp(z).sum(), rel=0.03)


def test_targets_and_pages_are_certain() -> None:
    for drawn in draws(sampler(), 20):
        for pairs in (FOLLOWING, GENERAL, PAGES):
            for position, item in zip(pairs.position, pairs.item, strict=True):
                at = (drawn.position == position) & (drawn.item == item)
                assert drawn.log_pi[at].tolist() == [0.0]


def test_weights_share_the_targets_of_each_head() -> None:
    (drawn,) = draws(sampler(), 1)
    for weights, targets in [(drawn.weight_next, FOLLOWING), (drawn.weight_general, GENERAL)]:
        for position in range(3):
            own = drawn.position == position
            items = targets.item[targets.position == position]
            assert sorted(drawn.item[own & (weights > 0)].tolist()) == sorted(items.tolist())
            np.testing.assert_allclose(weights[own & (weights > 0)], 1 / len(items))


def test_negatives_are_pages_and_fresh_items_of_the_targets_subclasses() -> None:
    subclass = shop_past().dataset.item_subclass
    seen: set[tuple[int, int]] = set()
    for drawn in draws(sampler(history_candidates=4, shared_uniform=30), 40):
        for p, item, negative in zip(drawn.position, drawn.item, drawn.negative, strict=True):
            targets = set(FOLLOWING.item[FOLLOWING.position == p])
            later = set(GENERAL.item[GENERAL.position == p])
            on_page = item in PAGES.item[PAGES.position == p]
            alike = subclass[item] in subclass[list(targets)] and item not in HISTORIES[p]
            assert negative == (item not in targets | later and (on_page or alike))
            if negative:
                seen.add((int(p), int(item)))
    assert {(0, 9), (0, 2), (2, 36)} <= seen, "page items, one of them bought before"
    assert (0, 55) in seen, "of the subclass of target 1 (and 37)"
    assert (2, 18) in seen


def test_bought_items_point_at_their_row_of_the_histories() -> None:
    rows = np.concatenate(HISTORIES)
    owner = np.repeat(np.arange(3), [len(h) for h in HISTORIES])
    for drawn in draws(sampler(history_candidates=4, shared_uniform=30), 20):
        for p, item, row in zip(drawn.position, drawn.item, drawn.history, strict=True):
            assert (row >= 0) == (item in HISTORIES[p])
            if row >= 0:
                assert (rows[row], owner[row]) == (item, p)


def test_a_shared_item_is_listed_as_own_where_its_chance_or_its_repeat_term_is() -> None:
    subclass = shop_past().dataset.item_subclass
    for drawn in draws(sampler(history_candidates=1, shared_uniform=30), 20):
        assert len(set(drawn.shared.tolist())) == len(drawn.shared) == 30
        for p in range(3):
            own = set(drawn.item[drawn.position == p].tolist())
            targets = FOLLOWING.item[FOLLOWING.position == p]
            for item in drawn.shared.tolist():
                if item in HISTORIES[p] or subclass[item] in subclass[targets]:
                    assert item in own


def test_own_candidates_are_unique_and_in_order() -> None:
    for drawn in draws(sampler(), 5):
        key = drawn.position * 60 + drawn.item
        assert (np.diff(key) > 0).all()
        for name in ("position", "item", "history", "shared"):
            assert getattr(drawn, name).dtype == np.int64, name
        for name in ("log_pi", "shared_log_pi", "weight_next", "weight_general"):
            assert getattr(drawn, name).dtype == np.float32, name


def test_more_shared_than_there_are_items_takes_all_with_certainty() -> None:
    (drawn,) = draws(sampler(shared_uniform=1000), 1)
    assert drawn.shared.tolist() == shop_past().catalogue.tolist()
    np.testing.assert_array_equal(drawn.shared_log_pi, 0)
    np.testing.assert_array_equal(drawn.log_pi, 0)


def test_the_same_seed_draws_the_same() -> None:
    one, two = draws(sampler(), 3), draws(sampler(), 3)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.item, b.item)
        np.testing.assert_array_equal(a.shared, b.shared)
    assert not np.array_equal(one[0].shared, one[1].shared)
