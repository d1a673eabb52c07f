"""Profiles of simulated users, streamers and rooms, in KuaiLive's columns.

They tell a little of what is behind them: age and gender the audience that a user belongs to, the
binary features the side of a taste or a content, the category the theme, the title the words.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..auc import F64, Ids
from ..config import LiveConfig
from .live_text import THEMES
from .live_world import World

_AGES = ("12-17", "18-23", "24-30", "31-40", "41-49", "50+")
_FANS = ("0", "1-9", "10-99", "100-999", "1000+")
_TITLES = 2  # a streamer
_NOISE, _TITLE_NOISE = 1.0, 0.4
_DAY_MS = 86_400_000


def user_table(world: World, rng: np.random.Generator) -> pl.DataFrame:
    """`user.csv`."""
    people = world.people
    n = len(people.group)
    return pl.DataFrame(
        {"user_id": np.arange(n)} | _common(people.group, rng) | _sides(people.taste, rng)
    )


def streamer_table(world: World, rng: np.random.Generator) -> pl.DataFrame:
    """`streamer.csv`; the binary features are those of a streamer's first content."""
    n = len(world.popularity)
    first = np.searchsorted(world.author, np.arange(n))
    fans = np.digitize(np.log(world.popularity) + rng.normal(size=n), [-2, -0.5, 0.5, 1.5])
    columns = {"streamer_id": np.arange(n)} | _common(rng.integers(0, len(_AGES), n), rng)
    columns["fans_user_num"] = np.array(_FANS)[fans]
    return pl.DataFrame(columns | _sides(world.content[first], rng))


def room_table(config: LiveConfig, world: World, rng: np.random.Generator) -> pl.DataFrame:
    """`room.csv`, rows in order of `live_id`."""
    rooms = world.rooms
    n = len(rooms.streamer)
    category = np.array(list(THEMES), object)[world.words["theme"][rooms.content]]
    category[rng.random(n) < 0.05] = None
    day = pl.Series(rooms.start_ms).cast(pl.Datetime("ms")).dt.strftime("%Y%m%d").cast(pl.Int64)
    return pl.DataFrame(
        {
            "p_date": day, "live_id": np.arange(n), "streamer_id": rooms.streamer,
            "live_type": (world.words["format"][rooms.content] == 1).astype(np.int64),
            "start_timestamp": rooms.start_ms, "end_timestamp": rooms.end_ms,
            "live_content_category": list(category),
            "live_name_id": rooms.streamer * _TITLES + rng.integers(0, _TITLES, n),
        }
    )  # fmt: skip


def title_vectors(world: World, rng: np.random.Generator) -> NDArray[np.float32]:
    """[streamers * 2, 128] float32: a noisy image of each streamer's first content."""
    streamers = np.arange(len(world.popularity))
    content = world.content[np.searchsorted(world.author, streamers)]
    image = content @ rng.normal(size=(content.shape[1], 128)) / content.shape[1] ** 0.5
    titles = np.repeat(image, _TITLES, 0)
    found: NDArray[np.float32] = (titles + _TITLE_NOISE * rng.normal(size=titles.shape)).astype(
        np.float32
    )
    return found


def _common(group: Ids, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    n = len(group)
    age = np.where(rng.random(n) < 0.5, group, rng.integers(0, len(_AGES), n))
    woman = rng.random(n) < np.where(group % 2, 0.7, 0.3)
    since = np.datetime64("2020-01-01") + rng.integers(0, 1800, n)
    return {
        "age": np.array(_AGES)[age],
        "gender": np.where(woman, "F", "M"),
        "device_brand": np.array(["A", "B", "C", "D"])[rng.integers(0, 4, n)],
        "device_price": np.array(["0-1000", "1000-3000", "3000+"])[rng.integers(0, 3, n)],
        "reg_timestamp": since.astype(str),
    }


def _sides(vectors: F64, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Seven binary features: on which side of a random plane a noisy vector lies."""
    planes = rng.normal(size=(vectors.shape[1], 7))
    noisy = vectors + _NOISE * rng.normal(size=vectors.shape)
    sides = (noisy @ planes > 0).astype(np.int64)
    return {f"onehot_feat{k}": sides[:, k] for k in range(7)}
