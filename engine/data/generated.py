"""A made-up shop in the prepared form: the shape and size of one, and nothing to learn from it."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from .clock import DAY_S, Clock
from .dataset import ALWAYS, Dataset, DatasetMeta, NumericFeature

TIMEZONE = "America/New_York"
_FIRST_DAY = (date(2024, 1, 1) - date(1970, 1, 1)).days
_DAYS, _SUBCLASSES, _TAGS, _A_SESSION = 365, 50, 32, 5


def generated_shop(
    folder: Path,
    *,
    users: int = 64,
    items: int = 10_000,
    events: int = 300,
    text_dim: int = 384,
    seed: int = 0,
) -> Dataset:
    """Writes the dataset and returns it.

    User u has events in proportion to u, the last one `events` of them, five on a day. Texts are
    random directions, twice as many as dimensions; features, tags and signals are of each kind.

    Raises:
        ValueError: more than five events for each day of the year, or fewer than five items.
    """
    if items < _A_SESSION:
        raise ValueError(f"generated_shop: items: expected at least {_A_SESSION}, got {items}")
    if events > _DAYS * _A_SESSION:
        limit = _DAYS * _A_SESSION
        raise ValueError(f"generated_shop: events: expected at most {limit}, got {events}")
    rng = np.random.default_rng(seed)
    texts = rng.standard_normal((2 * text_dim, text_dim)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    counts = np.arange(1, users + 1) * events // users
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    session = place // _A_SESSION
    # A session's items are a fifth of the catalogue apart: none is in it twice.
    first = rng.integers(0, items, len(place))[np.arange(len(place)) - place % _A_SESSION]
    item = (first + place % _A_SESSION * (items // _A_SESSION)) % items
    # The last session of everyone is on the last day: whoever has few events came late.
    last = np.repeat((counts - 1) // _A_SESSION, counts)
    midnight = Clock(TIMEZONE).start_of_day(_FIRST_DAY)
    tags = np.sort(rng.permuted(np.tile(np.arange(_TAGS), (items, 1)), axis=1)[:, :3], axis=1)
    item_ids = 7 * np.arange(items, dtype=np.int64) + 1000
    subclass = rng.integers(0, _SUBCLASSES, items).astype(np.int32)
    dataset = Dataset(
        meta=_meta(f"generated {users} {items} {events} {text_dim} {seed}"),
        item_ids=item_ids,
        item_text=rng.integers(0, len(texts), items).astype(np.int32),
        text_rows=texts,
        item_subclass=subclass,
        tag_offsets=np.arange(0, 3 * items + 1, 3, dtype=np.int64),
        tag_ids=tags.ravel().astype(np.int32),
        item_from=np.full(items, ALWAYS),
        user_ids=np.array([f"user-{u:06}".encode() for u in range(users)]),
        user_categorical=rng.integers(0, 4, (users, 1)).astype(np.int32),
        user_numeric=rng.standard_normal((users, 1)).astype(np.float32),
        event_offsets=np.concatenate([[0], np.cumsum(counts)]),
        event_item=item.astype(np.int32),
        event_time=midnight + DAY_S * (_DAYS - 1 - last + session) + 12 * 3600,
        event_type=np.zeros(counts.sum(), np.int32),
        event_session=session.astype(np.int32),
        event_outcome=np.zeros((counts.sum(), 0), np.bool_),
        signals=rng.standard_normal((_DAYS, 2)).astype(np.float32),
        promotion_offsets=np.zeros(items + 1, np.int64),
        promotion_first_day=np.zeros(0, np.int32),
        promotion_last_day=np.zeros(0, np.int32),
        promotion_strength=np.zeros((0, 0), np.float32),
        impression_user=np.zeros(0, np.int32),
        impression_time=np.zeros(0, np.int64),
        impression_offsets=np.zeros(1, np.int64),
        impression_item=np.zeros(0, np.int32),
        impression_clicked=np.zeros(0, np.bool_),
    )
    frame = pl.DataFrame(
        {
            "item_id": item_ids,
            "name": [f"Item {n}" for n in range(items)],
            "text": [f"item {n}" for n in range(items)],
            "subclass": [dataset.meta.subclasses[n] for n in subclass.tolist()],
            "price": np.round(rng.uniform(1, 50, items), 2),
        }
    )
    return dataset.save(folder, frame)


def _meta(name: str) -> DatasetMeta:
    unit = {"mean": 0.0, "std": 1.0}
    return DatasetMeta(
        name=name,
        timezone=TIMEZONE,
        has_time=True,
        event_types=["purchase"],
        outcomes=[],
        tags=[f"tag:{n}" for n in range(_TAGS)],
        subclasses=[f"subclass {n}" for n in range(_SUBCLASSES)],
        user_categorical={"group": ["a", "b", "c"]},
        user_numeric=[NumericFeature(name="age", **unit)],
        signals=[NumericFeature(name=f"signal_{n}", **unit) for n in range(2)],
        first_day=_FIRST_DAY,
        promotions=[],
        text_model="none",
        fingerprint=name,
    )
