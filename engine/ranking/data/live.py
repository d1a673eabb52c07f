"""A simulated live platform, by the ratios of KuaiLive, whose true probabilities are known.

Streamers go on and off air and change what they do; users come in sessions and are shown rooms on
air, popular and fitting ones more often. `simulate_live` gives what a log of it would hold, the
truth behind each label, and a text of every content that a streamer has had.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from ..auc import F64, Ids
from ..config import LiveConfig as LiveConfig
from .impressions import LABEL, OUTCOME, Impressions
from .live_profiles import room_table, streamer_table, title_vectors, user_table
from .live_text import texts
from .live_walk import OnAir, Sessions, Shown, draw_sessions, on_air, walk
from .live_watch import with_watch
from .live_world import World, constant, make_world, probabilities, stay_constant

GAP_S = 1800  # the pause that parts two requests, as load_kuailive has it


class Tables(NamedTuple):
    """Profiles in KuaiLive's columns."""

    users: pl.DataFrame
    streamers: pl.DataFrame
    rooms: pl.DataFrame
    titles: NDArray[np.float32]  # [names, 128], row live_name_id


@dataclass(frozen=True)
class Live:
    """A log, the truth of it, and the texts; the rest is for asking what was not shown."""

    impressions: Impressions
    truth: F64  # [n, M] probabilities, in the order of impressions.objectives
    anchors: pl.DataFrame  # author_id, time (from when it holds), six fields of text
    time_ms: Ids  # [n]
    tables: Tables
    world: World
    air: OnAir
    constants: F64  # [M] of the world's fits
    config: LiveConfig


def simulate_live(config: LiveConfig, seed: int) -> Live:
    """Labels click, watch, comment, like and gift; the same seed gives the same platform and log.

    Columns are those of `load_kuailive`, and `label_watch`: an effective watch, of at least
    `watch_s` seconds. What is calibrated to KuaiLive are clicks per user and day, rooms per
    streamer and day, and the shares of clicks that bring a comment, a like and a gift.
    """
    world = make_world(config, seed)
    air = on_air(config, world)
    rng = np.random.default_rng([seed, 1])
    constants, sessions = _calibrated(config, world, air, rng)
    shown = walk(config, world, air, sessions, constants, rng)
    rates = (config.comment_rate, config.like_rate, config.gift_rate)
    for m, rate in enumerate(rates, 2):
        constants[m] = constant(shown.fit[shown.click, m], rate)
    answers = rng.random((len(shown.user), 3)) < expit(shown.fit + constants)[:, 2:]
    answers &= shown.click[:, None]
    price = np.where(answers[:, 2], np.ceil(rng.lognormal(1.5, 1.2, len(answers))), 0)
    tables = Tables(
        user_table(world, rng), streamer_table(world, rng), room_table(config, world, rng),
        title_vectors(world, rng),
    )  # fmt: skip
    order = np.lexsort((shown.time_ms, shown.user, shown.time_ms // 1000))
    streamer = world.rooms.streamer[shown.room]
    frame = described(_events(shown, streamer, answers, price.astype(np.int64)), tables)
    return Live(
        impressions=with_watch(Impressions.of(frame[order], "simulate_live"), config.watch_s),
        truth=probabilities(shown.fit, constants, config.watch_s)[order],
        anchors=_anchors(world),
        time_ms=shown.time_ms[order],
        tables=tables,
        world=world,
        air=air,
        constants=constants,
        config=config,
    )


def described(events: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """Events (`user_id`, `item_id`, `streamer_id`, `time_ms`, others) with all features."""
    rooms = tables.rooms.select(
        pl.col("live_id").alias("item_id"), "live_type", "live_content_category", "live_name_id",
        "start_timestamp",
    )  # fmt: skip
    found = events.join(rooms, "item_id", "left", maintain_order="left")
    for kind, profile in (("user", tables.users), ("streamer", tables.streamers)):
        named = profile.rename({c: f"{kind}_{c}" for c in profile.columns if c != f"{kind}_id"})
        found = found.join(named, f"{kind}_id", "left", maintain_order="left")
    age = (pl.col("time_ms") - pl.col("start_timestamp")) / 1000
    found = found.with_columns((pl.col("time_ms") // 1000).alias("time"), age.alias("room_age_s"))
    return found.drop("time_ms", "start_timestamp")


def _calibrated(
    config: LiveConfig, world: World, air: OnAir, rng: np.random.Generator
) -> tuple[F64, Sessions]:
    """Constants and sessions for the asked rates, by a first walk: what is shown hangs on them."""
    asked = config.clicks_per_user_day / config.click_rate  # impressions a user and day
    per_day = asked / config.session_length
    constants = np.zeros(5)
    for _ in range(2):
        sessions = draw_sessions(config, world, per_day, rng)
        shown = walk(config, world, air, sessions, constants, rng)
        per_day *= asked * config.users * config.days / len(shown.user)
        constants[0] = constant(shown.fit[:, 0], config.click_rate)
        clicked = shown.fit[shown.click, 1]
        constants[1] = stay_constant(clicked, config.watch_rate, config.watch_s)
    return constants, draw_sessions(config, world, per_day, rng)


def _events(shown: Shown, streamer: Ids, answers: NDArray[np.bool_], price: Ids) -> pl.DataFrame:
    """The log's columns, in order of the walk."""
    order = np.lexsort((shown.time_ms, shown.user))
    user, time = shown.user[order], shown.time_ms[order]
    pause = np.r_[0, (np.diff(time) >= GAP_S * 1000) & (np.diff(user) == 0)]
    count = np.cumsum(pause)
    visit = np.empty(len(order), np.int64)
    visit[order] = count - count[np.searchsorted(user, user)]
    answered = {f"{LABEL}{k}": answers[:, i] for i, k in enumerate(("comment", "like", "gift"))}
    return pl.DataFrame(
        {
            "user_id": shown.user, "item_id": shown.room, "streamer_id": streamer,
            "time_ms": shown.time_ms,
            OUTCOME + "watch_ms": shown.watch_ms, LABEL + "click": shown.click, **answered,
            OUTCOME + "gift_price": price, "visit": visit,
        }
    ).with_columns(
        pl.when(LABEL + "click").then(OUTCOME + "watch_ms"),
        pl.when(LABEL + "gift").then(OUTCOME + "gift_price"),
        pl.format("{}/{}", "user_id", "visit").alias("request_id"),
    ).drop("visit")  # fmt: skip


def _anchors(world: World) -> pl.DataFrame:
    """A text a content, from when it holds."""
    return pl.concat(
        [
            pl.DataFrame({"author_id": world.author, "time": -(-world.since_ms // 1000)}),
            texts(world.words),
        ],
        how="horizontal",
    )
