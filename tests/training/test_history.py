import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data.dataset import ALWAYS
from engine.errors import ConfigError
from engine.features import Calendar, recency_buckets
from engine.repeats import (
    FEATURES,
    RepeatHistory,
    RepeatItemStatistics,
    repeat_features,
    repeat_history,
)
from engine.sales import Sales
from engine.training.history import Past, past
from engine.training.sampling import CandidateSampler, Pairs
from tests.tiny import cut_of, shop_of, tiny_config, tiny_shop, without_later

DAY = 86_400
NOON = 1_500_048_000  # 2017-07-14 12:00 in New York


def flat(value: Any) -> list[Any]:
    """The arrays and numbers in a Past, but for the dataset that it was made of."""
    if isinstance(value, list):
        return [leaf for part in value for leaf in flat(part)]
    if isinstance(value, Past | RepeatHistory | RepeatItemStatistics | Sales | Calendar):
        names = [f.name for f in fields(value) if f.name not in ("dataset", "clock")]
        return [leaf for name in names for leaf in flat(getattr(value, name))]
    return [value]


@pytest.mark.parametrize("with_time", [True, False])
def test_a_later_event_changes_nothing(with_time: bool) -> None:
    shop = tiny_shop(with_time=with_time)
    cut = cut_of(shop, 0.7)
    later = shop.event_time >= cut
    assert 0 < later.sum() < len(later)
    planted = replace(
        shop,
        event_item=np.where(later, 3, shop.event_item).astype(np.int32),
        event_time=np.where(later, shop.event_time + 5000, shop.event_time),
    )
    expected = flat(past(without_later(shop, cut), cut, 1.0, ("purchase",)))
    for dataset in (shop, planted):
        got = flat(past(dataset, cut, 1.0, ("purchase",)))
        assert len(got) == len(expected) > 100
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_order_inside_a_basket_carries_nothing() -> None:
    shop = tiny_shop()
    user = np.repeat(np.arange(24), np.diff(shop.event_offsets))
    basket = np.stack([user, shop.event_time])
    # Turned round inside each basket: by user and time, later places first.
    order = np.lexsort((-np.arange(len(user)), shop.event_time, user))
    assert (basket == basket[:, order]).all()
    turned = replace(shop, event_item=shop.event_item[order])
    assert not np.array_equal(turned.event_item, shop.event_item)
    one, other = (past(s, 1_800_000_000, 1.0, ("purchase",)) for s in (shop, turned))
    for name in (f.name for f in fields(Past) if f.name not in ("dataset", "item")):
        for ours, theirs in zip(flat(getattr(one, name)), flat(getattr(other, name)), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_histories_and_sessions(tmp_path: Path) -> None:
    evening = NOON + 10 * 3600  # 22:00 in New York, the next day in UTC
    shop = shop_of(
        tmp_path,
        [
            ("a", 1, NOON), ("a", 2, evening), ("a", 1, NOON + 3 * DAY), ("a", 5, NOON + 9 * DAY),
            ("c", 2, NOON + DAY),
        ],
        items=6,
    )  # fmt: skip
    before = past(shop, NOON + 9 * DAY, 1.0, ("purchase",))
    assert [starts.tolist() for starts in before.session_start] == [[0, 2, 3], [0, 1]]
    history = before.history(0)
    assert history.items.tolist() == [1, 2, 1]
    assert history.times.tolist() == [NOON, evening, NOON + 3 * DAY]
    np.testing.assert_array_equal(before.recency[:3], recency_buckets(history.times))
    state = before.repeat_state(0)
    assert (state.item.tolist(), state.count.tolist()) == ([1, 2], [2, 1])
    assert (state.n_sessions, state.last_session_time) == (2, NOON + 3 * DAY)


def test_a_user_without_a_past_has_an_empty_one(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, [("a", 1, NOON), ("b", 2, NOON + DAY)], items=3)
    before = past(shop, NOON + DAY, 1.0, ("purchase",))
    assert before.session_start[1].tolist() == [0]
    assert len(before.history(1).items) == 0
    state = before.repeat_state(1)
    assert (len(state.item), state.n_sessions, state.last_session_time) == (0, 0, 0)


def test_counts_and_the_prior_are_of_sessions(tmp_path: Path) -> None:
    events = [("a", 0, NOON), ("a", 0, NOON + DAY), ("b", 0, NOON), ("b", 1, NOON)]
    before = past(shop_of(tmp_path, events, items=3), NOON + 2 * DAY, 0.5, ("purchase",))
    assert before.counts.tolist() == [3, 1, 0]
    p = (np.array([3, 1, 0]) + 0.5) / (4 + 3 * 0.5)
    np.testing.assert_allclose(np.exp(before.log_p), p, rtol=1e-6)
    assert np.exp(before.log_p).sum() == pytest.approx(1)


def test_item_statistics_are_sums_over_users(tmp_path: Path) -> None:
    # Item 0: two buyers, one buys again after 4 and 2 days. Item 1: one buyer, again after 10.
    events = [
        ("a", 0, NOON), ("a", 0, NOON + 4 * DAY), ("a", 0, NOON + 6 * DAY), ("b", 0, NOON),
        ("b", 1, NOON), ("b", 1, NOON + 10 * DAY),
    ]  # fmt: skip
    before = past(shop_of(tmp_path, events, items=3), NOON + 20 * DAY, 1.0, ("purchase",))
    sums = before.statistics
    assert [getattr(sums, name).tolist() for name in ("count", "buyers", "again", "span_days")] == [
        [4, 2, 0], [2, 1, 0], [1, 1, 0], [6, 10, 0],
    ]  # fmt: skip
    np.testing.assert_array_equal(sums.subclass, before.dataset.item_subclass)
    # Without anyone: few observations lean on the mean over all pairs of buyer and item.
    rate, gap = 2 / 3, 16 / 3
    items, none = np.arange(3, dtype=np.int32), np.zeros(3, np.float32)
    state = repeat_history(items, np.zeros(3, np.int64), items).after(2, 0)
    state = replace(state, all_count=none, all_span=none)
    features = dict(zip(FEATURES, repeat_features([state], sums, np.array([0])).T, strict=True))
    np.testing.assert_allclose(
        features["rebuy_rate"], [(1 + 5 * rate) / 7, (1 + 5 * rate) / 6, rate], rtol=1e-6
    )
    np.testing.assert_allclose(
        np.expm1(features["log_item_gap_days"]),
        [(6 + 5 * gap) / 7, (10 + 5 * gap) / 6, gap],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        np.exp(features["log_popularity"]), np.array([5, 3, 1]) / 9, rtol=1e-6
    )


def test_only_repeat_types_count_as_bought(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, [("a", 1, NOON), ("a", 1, NOON + DAY)], 3, event_type="view")
    assert past(shop, NOON + 2 * DAY, 1.0, ("view",)).counts.tolist() == [0, 2, 0]
    other = replace(shop, meta=shop.meta.model_copy(update={"event_types": ["view", "gift"]}))
    before = past(other, NOON + 2 * DAY, 1.0, ("gift",))
    assert before.counts.sum() == 0
    assert len(before.repeat_state(0).item) == 0
    assert before.repeat_state(0).n_sessions == 2
    assert past(other, NOON + 2 * DAY, 1.0, ("gift", "view")).counts.tolist() == [0, 2, 0]


@pytest.mark.parametrize("types", [("purchase",), ("view", "purchase"), ()])
def test_repeat_types_that_the_data_lacks_are_refused(
    tmp_path: Path, types: tuple[str, ...]
) -> None:
    shop = shop_of(tmp_path, [("a", 1, NOON)], 3, event_type="view")
    text = (
        f"train.repeat_types: expected some of the data's event types ['view'], got {list(types)}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        past(shop, NOON + DAY, 1.0, types)


def test_the_catalogue_is_what_exists_or_was_sold_before_the_cut() -> None:
    shop = tiny_shop()
    cut = cut_of(shop, 0.7)
    sold = np.unique(shop.event_item[shop.event_time < cut])
    item_from = np.full(60, cut)
    item_from[:20], item_from[20:40] = ALWAYS, cut - 1
    before = past(replace(shop, item_from=item_from), cut, 1.0, ("purchase",))
    assert before.catalogue.tolist() == sorted({*range(40), *sold.tolist()})
    assert len(set(sold.tolist()) - set(range(40))) > 0, "sold before it was said to exist"
    # So a target's subclass is never without a member to draw.
    targets = Pairs.of([sold[-1:].astype(np.int64)])
    nothing = Pairs.of([np.zeros(0, np.int64)])
    drawn = CandidateSampler(before, tiny_config().train).draw(
        [np.zeros(0, np.int32)], targets, targets, nothing, np.random.default_rng(0)
    )
    assert np.isin(drawn.item, before.catalogue).all()


def test_without_time_every_event_is_a_session_and_time_stands_still() -> None:
    shop = tiny_shop(with_time=False)
    before = past(shop, cut_of(shop, 0.7), 1.0, ("purchase",))
    assert not before.time.any()
    assert not before.recency.any()
    for user, starts in enumerate(before.session_start):
        at = before.events(user)
        assert starts.tolist() == list(range(at.stop - at.start + 1))
        np.testing.assert_array_equal(
            before.item[at],
            shop.event_item[before.dataset.event_offsets[user] :][: at.stop - at.start],
        )
        state = before.repeat_state(user)
        np.testing.assert_array_equal(state.decayed, np.repeat(state.count[:, None], 3, axis=1))


def test_a_state_at_the_cut_holds_all_that_the_statistics_do() -> None:
    dataset = tiny_shop()
    before = past(dataset, cut_of(dataset, 0.8), 1.0, ("purchase",))
    for user in range(len(dataset.user_ids)):
        state = before.repeat_state(user)
        assert state.all_count is not None
        assert state.all_span is not None
        assert state.all_count.tolist() == state.count.tolist()
        assert state.all_span.tolist() == (state.last_time - state.first_time).tolist()
