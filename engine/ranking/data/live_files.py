"""A simulated log in KuaiLive's published files."""

from pathlib import Path

import numpy as np
import polars as pl

from .impressions import LABEL, OUTCOME
from .live import Live


def write_kuailive(live: Live, folder: Path) -> None:
    """The files that `load_kuailive` reads: of them it makes the same impressions.

    The effective watch is not in the files; `with_watch` adds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = live.impressions.frame.with_columns(
        pl.Series("timestamp", live.time_ms), pl.col("user_id").cast(pl.Int64)
    ).rename({"item_id": "live_id", OUTCOME + "watch_ms": "watch_live_time"})
    keys = ["user_id", "live_id", "streamer_id", "timestamp"]
    click = log.filter(LABEL + "click").with_columns(pl.col("watch_live_time").cast(pl.Int64))
    click.select(*keys, "watch_live_time").write_csv(folder / "click.csv")
    log.filter(~pl.col(LABEL + "click")).select(keys).write_csv(folder / "negative.csv")
    for name in ("comment", "like", "gift"):
        price = [pl.col(OUTCOME + "gift_price").cast(pl.Int64).alias("gift_price")]
        answered = click.filter(LABEL + name).with_columns(
            pl.col("timestamp") + pl.col("watch_live_time") // 2
        )
        answered.select(*keys, *(price if name == "gift" else [])).write_csv(folder / f"{name}.csv")
    live.tables.rooms.write_csv(folder / "room.csv")
    live.tables.users.write_csv(folder / "user.csv")
    live.tables.streamers.write_csv(folder / "streamer.csv")
    np.save(folder / "title_embeddings_pca128.npy", live.tables.titles)
