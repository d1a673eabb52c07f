"""KuaiRand-27K, the part of it whose impressions have a like or a hate: short videos.

Rows were chosen by what the user did, so its rates are not those of the platform: for relative
comparisons only. It has no page of one request that is whole; what a user saw in a day stands for
a request. Play time and stay in the comments are outcomes.
"""

from pathlib import Path

import polars as pl

from engine.data.schema import Column

from .impressions import LABEL, OUTCOME, Impressions
from .tables import flag, read_table, unique

LOG, USERS = "kuairand27k_standard_kcore15.tsv", "user_features_pure.csv"
_LABELS = {
    "is_click": "click",
    "long_view": "long_view",
    "label": "like",  # 1 liked, 0 hated
    "is_comment": "comment",
    "is_profile_enter": "profile_enter",
    "is_follow": "follow",
    "is_forward": "forward",
}
_OUTCOMES = {"play_time_ms": "play_ms", "comment_stay_time": "comment_stay_ms"}
_INTEGERS = ("user_id", "video_id", "date", "hourmin", "time_ms", "duration_ms")


def load_kuairand(folder: Path) -> Impressions:
    """Impressions with seven labels; features `duration_ms`, `hour` and `user_*` of the user file.

    Raises:
        DataError: a file, a column or a value that is not as published.
    """
    path = folder / LOG
    names = [*_INTEGERS, *_LABELS, *_OUTCOMES]
    log = read_table(path, [Column(name, "integer") for name in names], separator="\t")
    users = read_table(folder / USERS, [Column("user_id", "integer")], others=True)
    unique(users, "user_id", str(folder / USERS))
    frame = log.select(
        pl.format("{}/{}", "user_id", "date").alias("request_id"),
        "user_id",
        pl.col("video_id").alias("item_id"),
        (pl.col("time_ms") // 1000).alias("time"),
        *(flag(log, old, str(path)).alias(LABEL + new) for old, new in _LABELS.items()),
        *(pl.col(old).alias(OUTCOME + new) for old, new in _OUTCOMES.items()),
        "duration_ms",
        (pl.col("hourmin") // 100).alias("hour"),
    )
    known = users.rename(
        {c: f"user_{c.removeprefix('user_')}" for c in users.columns if c != "user_id"}
    )
    return Impressions.of(frame.join(known, "user_id", "left", maintain_order="left"), str(path))
