"""Small shops, models and configurations that the tests of model and training share."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.hashed_words import HashedWords
from engine.config import Config, ModelConfig, TrainConfig
from engine.data.clock import Clock
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.model.stars import Events, Stars
from tests.shop import write_shop

MODEL = {
    "layers": 2, "d_model": 16, "heads": 2, "d_ff": 32, "d_serve": 8, "window": 20, "hop": 5,
    "text_dim": 8, "attribute_dim": 4, "repeat_hidden": 8,
}  # fmt: skip
TRAIN = {
    "epochs": 2.0, "batch_size": 8, "lr": 1e-2, "shared_uniform": 16, "shared_positive": 8,
    "subclass_negatives": 4, "page_negatives": 4, "positions": 4, "precision": "fp32",
}  # fmt: skip


def tiny_config(**changes: Any) -> Config:
    """Both sections in miniature; each change goes to the section that has its key."""
    model = {k: v for k, v in changes.items() if k in ModelConfig.model_fields}
    train = {k: v for k, v in changes.items() if k not in model}
    return Config(model=ModelConfig(**MODEL | model), train=TrainConfig(**TRAIN | train))


_KEPT = tempfile.TemporaryDirectory()  # deleted when the tests end


@cache
def tiny_shop(*, with_time: bool = True, impressions: bool = False, items: int = 60) -> Dataset:
    """The generated shop of 24 users and 60 days, prepared; without time users take turns."""
    folder = Path(tempfile.mkdtemp(dir=_KEPT.name))
    source = write_shop(
        folder / "shop",
        users=24, items=items, days=60, with_time=with_time, impressions=impressions,
    )  # fmt: skip
    shop = prepare(source, folder / "out", embedder=HashedWords(), min_tag_items=2)
    return shop if with_time else _taking_turns(shop)


def _taking_turns(shop: Dataset) -> Dataset:
    """The users one after the other in turns: the generated order is one user after the other."""
    n_events = np.diff(shop.event_offsets)
    place = np.arange(len(shop.event_item)) - np.repeat(shop.event_offsets[:-1], n_events)
    user = np.repeat(np.arange(len(n_events)), n_events)
    return replace(shop, event_time=place * len(n_events) + user)


def shop_of(
    folder: Path, events: Sequence[tuple[str, int, int]], items: int, **meta: str
) -> Dataset:
    """A prepared shop of items 0 … items - 1, in New York, with just these events.

    Args:
        events: (user, item, unix seconds).
        meta: event_type, a type for all events.
    """
    source = folder / "shop"
    source.mkdir(parents=True)
    user, item, time = zip(*events, strict=True)
    table = {"user_id": user, "item_id": item, "time": time}
    pl.DataFrame(table | {k: [v] * len(user) for k, v in meta.items()}).write_parquet(
        source / "events.parquet"
    )
    pl.DataFrame(
        {
            "item_id": range(items),
            "text": [f"thing {n}" for n in range(items)],
            "name": [f"Thing {n}" for n in range(items)],
            "subclass": [f"class {n % 3}" for n in range(items)],
        }
    ).write_parquet(source / "items.parquet")
    (source / "shop.json").write_text('{"timezone": "America/New_York"}')
    return prepare(source, folder / "prepared", embedder=HashedWords())


def trained_like(model: Stars) -> Stars:
    """Noise in every weight, so that no term is 0 as it is at initialisation."""
    make = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=make)
    return model.eval()


def random_inputs(model: Stars, batch: int, length: int, seed: int) -> dict[str, NDArray]:
    """Every length occurs, 0 among them; what lies past an event sequence's end is noise."""
    rng = np.random.default_rng(seed)
    sizes = {
        name: len(getattr(model, name)) for name in ("event_type", "hour", "weekday", "week")
    } | {"recency": len(model.recency)}
    n_numeric = model.n_user_numeric
    shape = (batch, length)
    return {
        "rows": rng.standard_normal((*shape, model.config.d_model)).astype(np.float32),
        **{name: rng.integers(0, size, shape) for name, size in sizes.items()},
        "day": np.sort(rng.integers(19_000, 19_900, shape), axis=1),
        "signals": rng.standard_normal((*shape, len(model.signal))).astype(np.float32),
        "length": np.resize([length, 0, length // 2, 1], batch),
        "user_categorical": np.stack(
            [rng.integers(0, t.num_embeddings, batch) for t in model.user.tables], axis=1
        )
        if len(model.user.tables)
        else np.zeros((batch, 0), np.int64),
        "user_numeric": rng.standard_normal((batch, n_numeric)).astype(np.float32),
        "user_known": rng.integers(0, 2, (batch, n_numeric)).astype(np.float32),
    }


def without_later(dataset: Dataset, cut: int) -> Dataset:
    """The dataset as if nothing had happened from `cut` on: no event, no page."""
    keep = dataset.event_time < cut
    pages = dataset.impression_time < cut
    shown = np.repeat(pages, np.diff(dataset.impression_offsets))
    return replace(
        dataset,
        event_offsets=np.concatenate([[0], np.cumsum(keep)])[dataset.event_offsets],
        **{name: getattr(dataset, name)[keep] for name in _EVENT},
        impression_user=dataset.impression_user[pages],
        impression_time=dataset.impression_time[pages],
        impression_offsets=np.concatenate(
            [[0], np.cumsum(np.diff(dataset.impression_offsets)[pages])]
        ),
        impression_item=dataset.impression_item[shown],
        impression_clicked=dataset.impression_clicked[shown],
    )


def events_of(inputs: dict[str, NDArray]) -> tuple[Tensor, Events]:
    """Item rows and events, as the model takes them, of `random_inputs`."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return tensors["rows"], Events(**{f.name: tensors[f.name] for f in fields(Events)})


_EVENT = ("event_item", "event_time", "event_type", "event_session", "event_outcome")


def cut_of(dataset: Dataset, share: float) -> int:
    """A moment with about this share of the events before it, at the start of a local day."""
    at = int(np.quantile(dataset.event_time, share))
    if not dataset.meta.has_time:
        return at
    clock = Clock(dataset.meta.timezone)
    return clock.start_of_day(int(clock.day(np.array([at]))[0]))


def encoded(model: Stars, inputs: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """h_next and h_gen of the model itself, as every runtime must give them."""
    rows, events = events_of(inputs)
    with torch.no_grad():
        h_next, h_gen = model.encode(rows, events, torch.from_numpy(inputs["length"])[:, None])
    return h_next[:, 0].numpy(), h_gen[:, 0].numpy()


def cosine(ours: NDArray, theirs: NDArray) -> float:
    """The smallest cosine of two rows."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).min())
