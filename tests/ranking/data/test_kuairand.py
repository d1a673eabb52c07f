"""The KuaiRand subset's form on generated files, and its published totals where it is at hand."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.errors import DataError
from engine.ranking.data.kuairand import LOG, USERS, load_kuairand

REAL = Path(os.environ.get("KUAIRAND", Path(__file__).parents[4] / "shared/data/kuairand"))


def write_files(folder: Path, n: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    flags = ["is_click", "is_follow", "is_comment", "is_forward", "long_view", "is_profile_enter"]
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 6, n), "video_id": rng.integers(0, 20, n),
            "date": rng.integers(20220407, 20220410, n), "hourmin": rng.integers(0, 24, n) * 100,
            "time_ms": 1_649_000_000_000 + rng.integers(0, 10**8, n),
            **{name: rng.integers(0, 2, n) for name in flags},
            "play_time_ms": rng.integers(0, 9000, n), "duration_ms": rng.integers(0, 9000, n),
            "comment_stay_time": rng.integers(0, 9000, n), "label": rng.integers(0, 2, n),
            "timestamp": ["2022-04-10 08:59:09"] * n,
        }
    )  # fmt: skip
    log.write_csv(folder / LOG, separator="\t")
    users = pl.DataFrame({"user_id": range(5), "fans_user_num": range(5), "user_x": ["a"] * 5})
    users.write_csv(folder / USERS)
    return log


def test_the_columns_become_those_of_the_schema(tmp_path: Path) -> None:
    log = write_files(tmp_path).sort("time_ms", maintain_order=True)
    found = load_kuairand(tmp_path)
    assert found.objectives == (
        "click", "long_view", "like", "comment", "profile_enter", "follow", "forward",
    )  # fmt: skip
    assert found.features == ("duration_ms", "hour", "user_fans_user_num", "user_x")
    frame = found.frame
    assert frame["label_like"].cast(pl.Int64).to_list() == log["label"].to_list()
    assert frame["outcome_play_ms"].to_list() == log["play_time_ms"].to_list()
    assert frame["hour"].to_list() == (log["hourmin"] // 100).to_list()
    assert frame["request_id"].to_list() == [
        f"{u}/{d}" for u, d in log.select("user_id", "date").iter_rows()
    ]
    # A user without a row in the file is unknown, not gone.
    assert (frame["user_fans_user_num"].is_null() == (log["user_id"] == 5)).all()


def test_a_flag_is_0_or_1_and_a_user_comes_once(tmp_path: Path) -> None:
    log = write_files(tmp_path)
    log.with_columns(is_follow=pl.lit(2)).write_csv(tmp_path / LOG, separator="\t")
    with pytest.raises(DataError, match=r"tsv row 0 column is_follow: expected 0 or 1, got 2$"):
        load_kuairand(tmp_path)
    pl.DataFrame({"user_id": [3, 3]}).write_csv(tmp_path / USERS)
    with pytest.raises(DataError, match=r"csv row 1 column user_id: expected each value once, go"):
        load_kuairand(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no KuaiRand subset in {REAL}")
def test_the_published_totals() -> None:
    found = load_kuairand(REAL)
    assert (len(found), found.user.max() + 1, len(np.unique(found.item))) == (41828, 664, 9359)
    rates = dict(zip(found.objectives, found.labels.mean(0).round(3).tolist(), strict=True))
    assert rates == {
        "click": 0.657, "long_view": 0.462, "like": 0.807, "comment": 0.030,
        "profile_enter": 0.053, "follow": 0.007, "forward": 0.008,
    }  # fmt: skip
    assert found.frame["user_active_degree"].null_count() == 0  # every user has a row
