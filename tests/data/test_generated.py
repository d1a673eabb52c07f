"""The generated shop keeps what a prepared dataset promises."""

from pathlib import Path

import numpy as np
import pytest

from engine.data.dataset import Dataset
from engine.data.generated import generated_shop
from engine.evaluation.protocol import last_cuts
from engine.training.history import past


def test_it_is_a_dataset(tmp_path: Path) -> None:
    made = generated_shop(tmp_path, users=9, items=50, events=60, text_dim=8)
    shop = Dataset.load(tmp_path)
    np.testing.assert_array_equal(shop.event_item, made.event_item)
    counts = np.diff(shop.event_offsets)
    assert counts.max() == 60
    assert (np.diff(counts) > 0).all()
    assert shop.items_frame()["item_id"].to_list() == shop.item_ids.tolist()
    for user in range(9):
        at = slice(*shop.event_offsets[user : user + 2])
        assert (np.diff(shop.event_time[at]) >= 0).all()
        pairs = list(zip(shop.event_session[at], shop.event_item[at], strict=True))
        assert len(set(pairs)) == len(pairs)  # a session holds an item once
    history = past(shop, last_cuts(shop).end, 1.0, ("purchase",))
    np.testing.assert_array_equal(np.diff(history.offsets), counts)
    # One session a local day, and the calendar has a row for each.
    days = history.calendar.clock.day(shop.event_time)
    assert days.max() - shop.meta.first_day < len(shop.signals)
    at = slice(*shop.event_offsets[8:10])
    assert len(np.unique(days[at])) == shop.event_session[at].max() + 1


def test_the_seed_makes_it(tmp_path: Path) -> None:
    one, same, other = (
        generated_shop(tmp_path / str(n), users=3, items=20, text_dim=4, seed=seed)
        for n, seed in enumerate((1, 1, 2))
    )
    np.testing.assert_array_equal(one.event_item, same.event_item)
    assert (one.text_rows != other.text_rows).any()


def test_what_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="events: expected at most 1825, got 2000"):
        generated_shop(tmp_path, events=2000)
    with pytest.raises(ValueError, match="items: expected at least 5, got 4"):
        generated_shop(tmp_path, items=4)
