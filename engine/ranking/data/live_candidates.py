"""Every room on air at a simulated request, and what would come of showing each."""

import numpy as np
import polars as pl

from ..auc import F64
from .impressions import LABEL, OUTCOME, Impressions
from .live import Live, described
from .live_world import OBJECTIVES, probabilities


def candidate_lists(live: Live, requests: int, size: int, seed: int = 0) -> tuple[Impressions, F64]:
    """`size` rooms on air at the beginning of each of `requests` of the last day's requests.

    Returns:
        Impressions in the log's columns, a request's rows together, labels drawn by the truth (the
        time watched and gifts' prices unknown), and the truth [requests * size, M].
    Raises:
        ValueError: fewer requests on the last day than asked for with as many rooms on air.
    """
    rng = np.random.default_rng([live.config.start_s, seed])
    frame = live.impressions.frame.with_columns(pl.Series("time_ms", live.time_ms))
    begun = frame.group_by("request_id").agg(
        pl.col("user_id", "time_ms").sort_by("time_ms").first()
    )
    last_ms = 1000 * (live.config.start_s + 86_400 * (live.config.days - 1))
    begun = begun.filter(pl.col("time_ms") >= last_ms).sort("time_ms", "request_id")
    on_air = [live.air.all(t) for t in begun["time_ms"]]
    possible = np.flatnonzero([len(rooms) >= size for rooms in on_air])
    if len(possible) < requests:
        raise ValueError(
            f"candidate_lists: requests: expected at most {len(possible)}, those of the last day"
            f" with {size} rooms on air, got {requests}"
        )
    drawn = np.sort(rng.choice(possible, requests, replace=False))
    room = np.concatenate([np.sort(rng.choice(on_air[k], size, replace=False)) for k in drawn])
    events = begun[np.repeat(drawn, size)].with_columns(
        item_id=pl.Series(room), streamer_id=pl.Series(live.world.rooms.streamer[room]),
        user_id=pl.col("user_id").cast(pl.Int64),
        request_id=pl.format("{}?", "request_id"),
    )  # fmt: skip
    fit = live.world.fit(events["user_id"].to_numpy(), room, events["time_ms"].to_numpy())
    truth = probabilities(fit, live.constants, live.config.watch_s)
    given = truth[:, 1:] / truth[:, :1]
    click = rng.random(len(truth)) < truth[:, 0]
    labels = np.c_[click, (rng.random(given.shape) < given) & click[:, None]]
    nothing = pl.lit(None, pl.Int64)
    events = events.with_columns(
        *(pl.Series(LABEL + m, labels[:, k]) for k, m in enumerate(OBJECTIVES)),
        nothing.alias(OUTCOME + "watch_ms"), nothing.alias(OUTCOME + "gift_price"),
    )  # fmt: skip
    found = Impressions.of(described(events, live.tables), "candidate_lists")
    return Impressions(found.frame.select(live.impressions.frame.columns)), truth
