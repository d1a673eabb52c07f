import numpy as np
import polars as pl
import pytest

from engine.ranking.data.impressions import Impressions
from engine.ranking.features import fit
from engine.ranking.sarm.anchors import FIELDS, checked_anchors
from engine.ranking.sarm.stream import last_clicked, stream
from tests.ranking.sarm.tiny import platform


def log(rows: list[tuple[str, int, int, int, bool]]) -> Impressions:
    names = ["request_id", "user_id", "item_id", "time", "label_click"]
    return Impressions.of(pl.DataFrame(rows, names, orient="row"), "log")


def test_a_history_is_the_last_clicks_before_the_request() -> None:
    found = log(
        [
            ("a", 1, 10, 100, True), ("a", 1, 11, 110, True), ("b", 2, 12, 120, True),
            ("c", 1, 13, 130, False), ("d", 1, 14, 140, True), ("d", 1, 15, 150, True),
            ("e", 1, 16, 160, False),
        ]
    )  # fmt: skip
    assert last_clicked(found, found.item, 3).tolist() == [
        [-1, -1, -1], [-1, -1, -1], [-1, 10, 11], [-1, 10, 11], [11, 14, 15],
    ]  # fmt: skip
    assert last_clicked(found, found.item, 1)[-1].tolist() == [15]


def test_a_click_of_the_same_second_is_no_history() -> None:
    found = log([("a", 1, 10, 100, True), ("b", 1, 11, 100, True)])
    assert last_clicked(found, found.item, 2).tolist() == [[-1, -1], [-1, -1]]


def test_what_comes_later_changes_no_history() -> None:
    whole, _ = platform()
    part = Impressions(whole.frame[:300])
    ids = whole.item
    np.testing.assert_array_equal(
        last_clicked(part, ids[:300], 5)[np.unique(part.request)],
        last_clicked(whole, ids, 5)[_of_part(whole, part)],
    )


def _of_part(whole: Impressions, part: Impressions) -> np.ndarray:
    """Numbers in `whole` of the requests of `part`, in order of the part's own numbers."""
    names = dict(zip(whole.frame["request_id"], whole.request, strict=True))
    mine = dict(zip(part.request, part.frame["request_id"], strict=True))
    return np.array([names[mine[q]] for q in range(len(mine))])


def test_anchors_and_authors_are_found_by_id_and_time() -> None:
    found = log([("a", 1, 10, 100, True), ("b", 1, 30, 110, True), ("c", 2, 10, 120, False)])
    texts = dict.fromkeys(FIELDS, [""] * 3)
    anchors = pl.DataFrame({"author_id": [10, 10, 20], "time": [50, 115, 0], **texts})
    flow = stream(found, checked_anchors(anchors, "a"), fit(found), 2)
    assert flow.authors.tolist() == [10, 20, 30]
    assert flow.author.tolist() == [0, 2, 0]
    assert flow.anchor.tolist() == [0, -1, 1]
    assert flow.held(60).tolist() == [0, 2, -1]


def test_a_log_without_clicks_has_no_histories() -> None:
    frame = pl.DataFrame(
        {"request_id": [1], "user_id": [1], "item_id": [1], "time": [1], "label_like": [True]}
    )
    found = Impressions.of(frame, "log")
    with pytest.raises(ValueError, match=r"objectives: expected click among them, got \('like',\)"):
        stream(found, platform()[1], fit(found), 2)
