"""KuaiLive's published files: live rooms shown, entered, commented, liked and sent gifts.

Shown is what was clicked (`click.csv`) and what was not (`negative.csv`). A comment, like or gift
belongs to the user's last click on that room at or before it; one without such a click is counted
and dropped. There is no request in the files: a user's rows less than `gap_s` apart stand for one.
When a room ends is known only afterwards, and no feature; neither is the time watched. The profiles
are as of one unknown day, so their totals (`accu_*`) may hold what they are asked to predict.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.data.schema import Column
from engine.errors import DataError

from .impressions import LABEL, OUTCOME, Impressions
from .tables import read_table, unique

_EVENT = [Column(name, "integer") for name in ("user_id", "live_id", "streamer_id", "timestamp")]
_ROOM = [
    *(Column(name, "integer") for name in ("live_id", "live_type", "start_timestamp")),
    Column("live_content_category", "string", nullable=True),
    Column("live_name_id", "integer"),
]
_ANSWERS = ("comment", "like", "gift")


class KuaiLive(NamedTuple):
    """Impressions, and how many comments, likes and gifts had no click before them."""

    impressions: Impressions
    without_click: dict[str, int]


def load_kuailive(folder: Path, gap_s: int = 1800) -> KuaiLive:
    """Labels click, comment, like and gift; outcomes `watch_ms` and `gift_price`.

    Features are `streamer_id`, the room's (`live_type`, `live_content_category`, `live_name_id`,
    `room_age_s`), and all columns of `user.csv` and `streamer.csv` under `user_` and `streamer_`.

    Raises:
        DataError: a file, a column or a value that is not as published, a room that is unknown.
    """
    click = read_table(folder / "click.csv", [*_EVENT, Column("watch_live_time", "integer")])
    click = click.sort("timestamp", maintain_order=True).with_row_index("click")
    click = click.with_columns(pl.lit(True).alias(LABEL + "click"))
    clicked, without_click = click, {}
    for name in _ANSWERS:
        price = [Column("gift_price", "integer")] if name == "gift" else []
        answers = read_table(folder / f"{name}.csv", [*_EVENT, *price])
        found = answers.sort("timestamp").join_asof(
            click.select("click", "user_id", "live_id", "timestamp"),
            on="timestamp", by=["user_id", "live_id"], check_sortedness=False,
        )  # fmt: skip
        without_click[name] = found["click"].null_count()
        sums = [pl.col("gift_price").sum().alias(OUTCOME + "gift_price")] if price else []
        per_click = found.drop_nulls("click").group_by("click").agg(
            pl.lit(True).alias(LABEL + name), *sums
        )  # fmt: skip
        clicked = clicked.join(per_click, "click", "left")
    clicked = clicked.drop("click").rename({"watch_live_time": OUTCOME + "watch_ms"})
    negative = read_table(folder / "negative.csv", _EVENT)
    negative = negative.with_columns(pl.lit(False).alias(LABEL + "click"))
    shown = pl.concat([clicked, negative], how="diagonal").with_columns(
        pl.col(f"^{LABEL}.*$").fill_null(False)
    )
    return KuaiLive(_described(folder, _sessions(shown, gap_s)), without_click)


def title_embeddings(folder: Path) -> NDArray[np.float32]:
    """[names, 128] of the rooms' titles, row `live_name_id`, mapped from the file.

    Raises:
        DataError: no such file, or another shape.
    """
    path = folder / "title_embeddings_pca128.npy"
    if not path.is_file():
        raise DataError(f"{path}: expected an array of title embeddings, got none")
    found: NDArray[np.float32] = np.load(path, mmap_mode="r")
    if found.ndim != 2 or found.shape[1] != 128:
        raise DataError(f"{path}: expected shape [names, 128], got {list(found.shape)}")
    return found


def _sessions(shown: pl.DataFrame, gap_s: int) -> pl.DataFrame:
    """With `request_id`: user and the number of the session, rows in order of user and time."""
    shown = shown.sort("user_id", "timestamp", maintain_order=True)
    pause = pl.col("timestamp").diff().over("user_id").fill_null(0) >= gap_s * 1000
    return shown.with_columns(
        pl.format("{}/{}", "user_id", pause.cast(pl.Int64).cum_sum().over("user_id")).alias(
            "request_id"
        )
    )


def _described(folder: Path, shown: pl.DataFrame) -> Impressions:
    """With the features of room, streamer and user, in the schema's columns."""
    path = folder / "room.csv"
    rooms = unique(read_table(path, _ROOM), "live_id", str(path))
    unknown = shown.join(rooms, "live_id", "anti")
    if len(unknown):
        raise DataError(
            f"{path} column live_id: expected every room shown, got none of {unknown['live_id'][0]}"
        )
    shown = shown.join(rooms, "live_id", "left", maintain_order="left")
    for kind in ("user", "streamer"):
        file = folder / f"{kind}.csv"
        key = f"{kind}_id"
        profile = read_table(file, [Column(key, "integer")], others=True)
        unique(profile, key, str(file))
        profile = profile.rename({c: f"{kind}_{c}" for c in profile.columns if c != key})
        shown = shown.join(profile, key, "left", maintain_order="left")
    shown = shown.with_columns(
        (pl.col("timestamp") // 1000).alias("time"),
        ((pl.col("timestamp") - pl.col("start_timestamp")) / 1000).alias("room_age_s"),
    ).rename({"live_id": "item_id"})
    return Impressions.of(shown.drop("timestamp", "start_timestamp"), str(folder))
