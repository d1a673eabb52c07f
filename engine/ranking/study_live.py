"""HarmonRank on the simulated live platform: the funnel's own fine ranker gives what is fused.

`python -m engine.ranking.study_live` prints one line of JSON, as `study` does.
"""

import json
import sys
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from .config import LiveConfig, LiveStudyConfig
from .data.impressions import OUTCOME, Impressions
from .data.live import Live, simulate_live
from .data.live_text import FIELDS
from .data.past import with_past
from .features import FeatureConfig
from .scored import Scored
from .study import Drawn, compare
from .study_logs import Rank, split
from .upstream import user_profile
from .wesing.config import RankerConfig, TrainConfig
from .wesing.ranker import train_ranker

_ANSWERS = ("comment", "like", "gift")
_ROW = OUTCOME + "row"


class Funnel(NamedTuple):
    """A ranker of the log's first half, and what it says of the quarters that follow."""

    rank: Rank
    seen: Scored
    asked: Scored
    last: Impressions  # the rows of `asked`


def study_live(config: LiveStudyConfig) -> dict[str, Any]:
    """`compare` on one platform a seed."""

    def draw(skew: float, seed: int) -> Drawn:
        return drawn(simulate_live(at_skew(config.live, skew), seed))

    return compare(config, draw)


def drawn(live: Live) -> Drawn:
    """What the funnel says of a platform's log, and its truth."""
    made = funnel(described(live, live.impressions))
    return Drawn(made.seen, made.asked, live.truth[made.last.frame[_ROW]])


def at_skew(config: LiveConfig, skew: float) -> LiveConfig:
    """With a gift in `skew` clicks, and comments and likes as much more or less, in logarithms."""
    power = np.log(skew) / -np.log(config.gift_rate)
    rates = {f"{m}_rate": float(getattr(config, f"{m}_rate") ** power) for m in _ANSWERS}
    return config.model_copy(update=rates)


def described(live: Live, log: Impressions) -> Impressions:
    """With the texts' fields as categories, and the past of users and streamers.

    A room comes once: what has a past is its streamer, which stands as the item here. An outcome
    tells which row of the log each is.
    """
    texts = live.anchors.select("author_id", "time", *FIELDS).sort("time")
    frame = log.frame.join_asof(
        texts, on="time", by_left="streamer_id", by_right="author_id", check_sortedness=False
    )
    rows = pl.Series(_ROW, range(len(frame)))
    return with_past(Impressions(frame.with_columns(rows, item_id=pl.col("streamer_id"))))


def funnel(log: Impressions) -> Funnel:
    """The fine ranker on the first half of a `described` log; the rest scored by it."""
    first, second, last = split(log)
    parents = {m: "click" for m in log.objectives if m != "click"}
    rank = train_ranker(
        first,
        TrainConfig(
            ranker=RankerConfig(parents=parents), features=FeatureConfig(leave_out=("streamer_id",))
        ),
    )
    return Funnel(rank, scored(rank, second), scored(rank, last), last)


def scored(rank: Rank, part: Impressions) -> Scored:
    """What the fusion sees of a part of the log."""
    return Scored(rank(part), user_profile(part), part.labels, part.request)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = sys.argv[1] if sys.argv[1:] else "{}"
    print(json.dumps(study_live(LiveStudyConfig.model_validate_json(given))))
