"""What could have been shown: rooms on air at the request, with labels by the truth."""

import numpy as np
import polars as pl
import pytest

from engine.ranking.data.live import Live, LiveConfig, simulate_live
from engine.ranking.data.live_candidates import candidate_lists


@pytest.fixture(scope="module")
def live() -> Live:
    return simulate_live(LiveConfig(users=150, streamers=400, days=3), 0)


def test_candidates_are_rooms_on_air_at_a_request_of_the_last_day(live: Live) -> None:
    lists, truth = candidate_lists(live, 40, 15, seed=1)
    frame = lists.frame
    assert len(lists) == len(truth) == 600
    assert frame.columns == live.impressions.frame.columns
    assert frame["request_id"].n_unique() == 40
    # A request's rows lie together, each room once.
    request = frame["request_id"].to_numpy().reshape(40, 15)
    assert (request == request[:, :1]).all()
    assert not frame.select("request_id", "item_id").is_duplicated().any()
    rooms = live.world.rooms
    time = 1000 * lists.time
    assert (rooms.start_ms[lists.item] <= time + 999).all()
    assert (rooms.end_ms[lists.item] > time).all()
    assert (lists.time >= live.config.start_s + 2 * 86_400).all()
    # Each stands at the beginning of a request of the log, by its user.
    begun = dict(
        live.impressions.frame.group_by("request_id").agg(pl.col("time").min()).iter_rows()
    )
    for request, moment in frame.select("request_id", "time").unique().iter_rows():
        assert begun[request.removesuffix("?")] == moment


def test_what_would_come_of_each_follows_the_truth(live: Live) -> None:
    lists, truth = candidate_lists(live, 150, 20, seed=0)
    labels = lists.labels
    assert not labels[~labels[:, 0]].any()
    for m in range(5):
        p = truth[:, m]
        assert abs(labels[:, m].mean() - p.mean()) < 4.5 * np.sqrt((p * (1 - p)).sum()) / len(p)
    # What is shown is chosen by the fit; what is on air is not.
    assert truth[:, 0].mean() < live.truth[:, 0].mean()
    assert lists.frame["outcome_watch_ms"].null_count() == len(lists)


def test_requests_with_too_few_rooms_on_air_are_counted(live: Live) -> None:
    with pytest.raises(
        ValueError,
        match=r"^candidate_lists: requests: expected at most 0, those of the last day with 999 ",
    ):
        candidate_lists(live, 3, 999)
