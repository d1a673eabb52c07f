from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hashed_words import HashedWords
from engine.data.clock import Clock
from engine.data.dataset import ALWAYS, Dataset
from engine.data.prepare import prepare
from engine.errors import DataError
from tests.shop import TIMEZONE, write_shop

MIDNIGHT = 1_704_085_200  # 2024-01-01 00:00 in New York, 05:00 in UTC


def shop(folder: Path, events: list[tuple[str, int, int]], clock: str = "time") -> Path:
    """A shop of the given (user, item, time) events with items 0, 10, 20."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(events, schema=["user_id", "item_id", clock], orient="row").write_parquet(
        folder / "events.parquet"
    )
    pl.DataFrame(
        {
            "item_id": [20, 0, 10],
            "text": ["tea", "milk", "milk"],
            "name": ["Tea", "Milk A", "Milk B"],
            "subclass": ["tea", "milk", "milk"],
            "available_from": pl.Series([MIDNIGHT, None, None], dtype=pl.Int64),
        }
    ).write_parquet(folder / "items.parquet")
    (folder / "shop.json").write_text(f'{{"name": "x", "timezone": "{TIMEZONE}"}}')
    return folder


def prepared(folder: Path, events: list[tuple[str, int, int]], clock: str = "time") -> Dataset:
    return prepare(shop(folder / "shop", events, clock), folder / "out", embedder=HashedWords())


def events_of(dataset: Dataset, user: int) -> list[tuple[int, int, int]]:
    """(item id, time, session) of a user."""
    rows = slice(dataset.event_offsets[user], dataset.event_offsets[user + 1])
    return list(
        zip(
            dataset.item_ids[dataset.event_item[rows]].tolist(),
            dataset.event_time[rows].tolist(),
            dataset.event_session[rows].tolist(),
            strict=True,
        )
    )


def test_a_session_is_a_day_in_the_shops_zone(tmp_path: Path) -> None:
    late = MIDNIGHT - 1
    dataset = prepared(
        tmp_path, [("u", 10, MIDNIGHT), ("u", 20, MIDNIGHT + 7200), ("u", 0, late), ("a", 0, late)]
    )
    assert dataset.user_ids.tolist() == [b"a", b"u"]
    assert events_of(dataset, 0) == [(0, late, 0)]
    assert events_of(dataset, 1) == [
        (0, late, 0), (10, MIDNIGHT, 1), (20, MIDNIGHT + 7200, 1),
    ]  # fmt: skip


def test_an_item_bought_twice_in_a_session_is_one_event(tmp_path: Path) -> None:
    dataset = prepared(
        tmp_path, [("u", 10, MIDNIGHT + 60), ("u", 10, MIDNIGHT), ("u", 10, MIDNIGHT + 90_000)]
    )
    assert events_of(dataset, 0) == [(10, MIDNIGHT, 0), (10, MIDNIGHT + 90_000, 1)]


def test_without_time_every_event_is_its_own_session(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, [("u", 10, 5), ("u", 10, 3), ("u", 0, 4), ("v", 0, 0)], "order")
    assert not dataset.meta.has_time
    assert events_of(dataset, 0) == [(10, 3, 0), (0, 4, 1), (10, 5, 2)]
    assert events_of(dataset, 1) == [(0, 0, 0)]


def test_items_texts_and_first_days(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, [("u", 10, MIDNIGHT)])
    assert dataset.item_ids.tolist() == [0, 10, 20]
    assert dataset.item_from.tolist() == [ALWAYS, ALWAYS, MIDNIGHT]
    assert dataset.item_text.tolist() == [0, 0, 1]
    np.testing.assert_allclose(dataset.text_rows, HashedWords().embed(["milk", "tea"]))
    assert dataset.meta.text_model == "words-16"


def test_users_are_all_who_have_events_or_a_profile(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop", [("7", 10, MIDNIGHT), ("z", 10, MIDNIGHT)])
    pl.DataFrame(
        {
            "user_id": [9, 7, 8],
            "home": ["rent", None, "own"],
            "card": [True, None, False],
            "age": [30.0, None, 50.0],
            "pets": [2, 2, 2],
        }
    ).write_parquet(source / "users.parquet")
    dataset = prepare(source, tmp_path / "out", embedder=HashedWords())
    assert dataset.user_ids.tolist() == [b"7", b"8", b"9", b"z"]
    assert dataset.event_offsets.tolist() == [0, 1, 1, 1, 2]
    assert dataset.meta.user_categorical == {"home": ["own", "rent"], "card": ["false", "true"]}
    assert dataset.user_categorical.tolist() == [[0, 0], [1, 1], [2, 2], [0, 0]]
    age, pets = dataset.meta.user_numeric
    assert (age.mean, age.std) == (40.0, 10.0)
    assert (pets.mean, pets.std) == (2.0, 1.0)  # constant: standardised to 0
    nan = np.nan
    np.testing.assert_array_equal(
        dataset.user_numeric, np.array([[nan, 0], [1, 0], [-1, 0], [nan, nan]], np.float32)
    )


def test_signals_are_standardised_by_day(tmp_path: Path) -> None:
    dataset = prepare(write_shop(tmp_path / "s"), tmp_path / "out", embedder=HashedWords())
    assert [signal.name for signal in dataset.meta.signals] == ["promotion", "temperature"]
    assert dataset.meta.first_day == Clock(TIMEZONE).day(np.array(MIDNIGHT))
    raw = pl.read_parquet(tmp_path / "s" / "calendar.parquet")["temperature"].to_numpy()
    signal = dataset.meta.signals[1]
    np.testing.assert_allclose(
        dataset.signals[:, 1] * signal.std + signal.mean, raw, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(dataset.signals.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(dataset.signals.std(axis=0), 1.0, atol=1e-5)


def test_impressions_by_page(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop", [("u", 10, MIDNIGHT), ("v", 0, MIDNIGHT)])
    rows = [
        ("p", "v", 9, 20, True, False),
        ("q", "u", 5, 10, True, True),
        ("p", "v", 9, 0, True, True),
        ("q", "u", 5, 20, False, False),
        ("r", "v", 4, 10, True, False),
    ]
    names = ["page_id", "user_id", "time", "item_id", "shown", "clicked"]
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(source / "impressions.parquet")
    dataset = prepare(source, tmp_path / "out", embedder=HashedWords())
    assert dataset.impression_user.tolist() == [0, 1, 1]
    assert dataset.impression_time.tolist() == [5, 4, 9]
    assert dataset.impression_offsets.tolist() == [0, 1, 2, 4]
    assert dataset.item_ids[dataset.impression_item].tolist() == [10, 10, 0, 20]
    assert dataset.impression_clicked.tolist() == [True, False, True, False]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([0, 10, 20]), st.integers(0, 200_000)),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_in_the_file_carries_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]], random: object
) -> None:
    folder = tmp_path_factory.mktemp("order")
    events = [(user, item, MIDNIGHT + second // 1000 * 1000) for user, item, second in rows]
    shuffled = random.sample(events, len(events))  # type: ignore[attr-defined]
    first, second = prepared(folder / "1", events), prepared(folder / "2", shuffled)
    for name in ("event_offsets", "event_item", "event_time", "event_session"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for user in range(len(first.user_ids)):
        kept = events_of(first, user)
        day = Clock(TIMEZONE).day(np.array([time for _, time, _ in kept]))
        assert [s for *_, s in kept] == (np.unique(day, return_inverse=True)[1]).tolist()
        assert len({(item, session) for item, _, session in kept}) == len(kept)
        assert [t for _, t, _ in kept] == sorted(t for _, t, _ in kept)


def test_ties_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    source = write_shop(tmp_path / "s", days=60)
    orders = [
        prepare(source, tmp_path / f"out{n}", embedder=HashedWords(), seed=seed).event_item
        for n, seed in enumerate((0, 0, 1))
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    assert np.sort(orders[0]).tolist() == np.sort(orders[2]).tolist()


class CountingEmbedder(HashedWords):
    calls = 0

    def embed(self, texts):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().embed(texts)


def test_an_unchanged_source_is_not_prepared_again(tmp_path: Path) -> None:
    source, embedder = write_shop(tmp_path / "s", days=30), CountingEmbedder()
    first = prepare(source, tmp_path / "out", embedder=embedder)
    again = prepare(source, tmp_path / "out", embedder=embedder)
    assert embedder.calls == 1
    assert again.meta == first.meta

    other = prepare(source, tmp_path / "out", embedder=embedder, min_tag_items=50)
    assert embedder.calls == 2
    assert len(other.meta.tags) < len(first.meta.tags)

    events = pl.read_parquet(source / "events.parquet")
    events.head(100).write_parquet(source / "events.parquet")
    changed = prepare(source, tmp_path / "out", embedder=embedder, min_tag_items=50)
    assert embedder.calls == 3
    assert len(changed.event_item) <= 100 < len(other.event_item)


def test_an_interrupted_preparation_is_made_anew(tmp_path: Path) -> None:
    source = write_shop(tmp_path / "s", days=30)
    first = prepare(source, tmp_path / "out", embedder=HashedWords())
    (tmp_path / "out" / "meta.json").write_text("{")
    (tmp_path / "out" / "arrays.safetensors").write_bytes(b"")
    again = prepare(source, tmp_path / "out", embedder=HashedWords())
    np.testing.assert_array_equal(again.event_item, first.event_item)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    source = write_shop(tmp_path / "s", days=30)
    with pytest.raises(DataError, match=r"expected a new folder or a dataset's, got \['calendar"):
        prepare(source, source, embedder=HashedWords())


def test_what_came_of_any_row_came_of_the_event(tmp_path: Path) -> None:
    noon = MIDNIGHT + 12 * 3600
    events = [("u", 10, noon), ("u", 10, noon + 60), ("u", 0, noon), ("v", 10, noon)]
    source = shop(tmp_path / "shop", events)
    pl.DataFrame(
        [("u", 10, noon + 60, True, False), ("u", 10, noon, False, True),
         ("v", 10, noon, False, True)],
        schema=["user_id", "item_id", "time", "coupon", "gift"], orient="row",
    ).write_parquet(source / "outcomes.parquet")  # fmt: skip
    dataset = prepare(source, tmp_path / "out", embedder=HashedWords())
    assert dataset.meta.outcomes == ["coupon", "gift"]
    user = np.repeat(np.arange(2), np.diff(dataset.event_offsets))
    rows = zip(user, dataset.item_ids[dataset.event_item], dataset.event_outcome, strict=True)
    assert {(int(u), int(item)): tuple(came.tolist()) for u, item, came in rows} == {
        (0, 10): (True, True), (0, 0): (False, False), (1, 10): (False, True),
    }  # fmt: skip


def test_promotions_are_found_by_item_and_day(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop", [("u", 10, MIDNIGHT)])
    pl.DataFrame(
        [(10, date(2024, 2, 1), date(2024, 2, 3), 0.5),
         (0, date(2024, 1, 1), date(2024, 1, 1), 1.0),
         (10, date(2024, 1, 5), date(2024, 1, 6), 0.25)],
        schema=["item_id", "first_day", "last_day", "mailer"], orient="row",
    ).write_parquet(source / "promotions.parquet")  # fmt: skip
    dataset = prepare(source, tmp_path / "out", embedder=HashedWords())
    assert dataset.meta.promotions == ["mailer"]
    items = np.searchsorted(dataset.item_ids, [10, 10, 10, 10, 0]).astype(np.int32)
    days = [(2, 1), (2, 4), (1, 6), (1, 7), (1, 1)]
    since = np.array([(date(2024, *day) - date(1970, 1, 1)).days for day in days])
    assert dataset.promotions.at(items, since)[:, 0].tolist() == [0.5, 0, 0.25, 0, 1]
