"""Two towers: what the correction corrects, exact search of the vectors, lists of sources."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.ranking.data.impressions import Impressions
from engine.ranking.wesing.config import Correction, DssmConfig
from engine.ranking.wesing.dssm import catalogue, in_batch_loss, train_dssm
from engine.ranking.wesing.frequency import log_frequency
from engine.ranking.wesing.recall import DssmSource, recall_at, united


def log(n: int = 6000, skew: float = 1.0, seed: int = 0) -> Impressions:
    """Two kinds of users, each with the items of its kind; low items more often."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, n)
    chance = np.arange(1, 21.0) ** -skew
    item = 2 * rng.choice(20, n, p=chance / chance.sum()) + user % 2
    noise = rng.random(n) < 0.1
    item[noise] = rng.integers(0, 40, noise.sum())
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": np.arange(n), "user_id": user, "item_id": item + 100,
                "time": np.arange(n), "label_click": [True] * (n - 1) + [False],
                "streamer_id": item // 2, "user_age": rng.normal(size=n), "hour": item % 24,
            }
        ),
        "f",
    )  # fmt: skip


CONFIG = DssmConfig(width=8, hidden=32, batch=128, epochs=3)


def test_each_user_is_answered_with_items_of_their_kind() -> None:
    seen = log()
    source = DssmSource(train_dssm(seen, CONFIG), catalogue(seen))
    found = source.recall(log(200, seed=1), 50)
    assert found.shape == (200, 50)
    assert (found[:, 40:] == -1).all()
    user = log(200, seed=1).frame["user_id"].cast(pl.Int64).to_numpy()
    assert (found[:, :10] % 2 == user[:, None] % 2).mean() > 0.95


def test_vectors_are_of_unit_length_and_read_one_side_each() -> None:
    seen = log(1000)
    dssm = train_dssm(seen, DssmConfig(epochs=1, context=("hour",)))
    assert dssm.user_features.numbers == ("user_age",)
    assert dssm.user_features.categories == ("user_id", "hour")
    assert dssm.item_features.categories == ("item_id", "streamer_id")
    for vectors in (dssm.users(seen), dssm.items(seen)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    shown = catalogue(seen)
    source = DssmSource(dssm, shown)
    cosines = dssm.users(seen) @ dssm.items(shown).T
    best = shown.item[np.argmax(cosines, 1)]
    assert (source.recall(seen, 1)[:, 0] == best).mean() > 0.99


def test_the_loss_has_other_items_of_the_batch_as_negatives() -> None:
    cosines = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4], [0.6, 0.7, 0.8]])
    log_q = torch.tensor([-1.0, -2.0, -1.0])
    z = (5 * cosines - log_q).exp()
    expected = torch.stack(
        [z[0, 0] / (z[0, 0] + z[0, 1]), z[1, 1] / z[1].sum(), z[2, 2] / (z[2, 1] + z[2, 2])]
    )
    loss = in_batch_loss(cosines, torch.tensor([7, 8, 7]), log_q, 5.0)
    torch.testing.assert_close(loss, -expected.log().mean())


@pytest.mark.parametrize("correction", ["counted", "streaming"])
def test_the_correction_gives_popular_items_their_place(correction: Correction) -> None:
    """Of kinds alike, the share of answers that are the most frequent items grows."""
    seen, asked = log(skew=1.5), log(300, skew=1.5, seed=1)
    request = np.arange(300)
    recalls = {}
    for name in ("none", correction):
        config = CONFIG.model_copy(update={"correction": name})
        found = DssmSource(train_dssm(seen, config), catalogue(seen)).recall(asked, 3)
        recalls[name] = np.nanmean(recall_at(found, request, asked, "click"))
    assert recalls[correction] > recalls["none"] + 0.05


def test_frequencies_are_shares_or_inverse_gaps() -> None:
    item = np.array([0, 1, 0, 2, 0, 0, 1])
    assert not log_frequency(item, "none", 0.5).any()
    shares = np.exp(log_frequency(item, "counted", 0.5))
    np.testing.assert_allclose(shares, np.array([4, 2, 4, 1, 4, 4, 2]) / 7)
    gaps = np.exp(-log_frequency(item, "streaming", 0.5))
    # Item 0 comes at 0, 2, 4, 5: 7, then half way to each gap; item 1 at 1 and 6.
    np.testing.assert_allclose(gaps, [7, 7, 4.5, 7, 3.25, 2.125, 6])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0.01, 1))
def test_streaming_frequencies_are_those_of_a_loop(ids: list[int], pace: float) -> None:
    item = np.unique(ids, return_inverse=True)[1].ravel()
    mean: dict[int, float] = {}
    last: dict[int, int] = {}
    wanted = []
    for t, i in enumerate(item.tolist()):
        if i in last:
            mean[i] += pace * (t - last[i] - mean[i])
        else:
            mean[i] = len(item)
        last[i] = t
        wanted.append(-np.log(mean[i]))
    np.testing.assert_allclose(log_frequency(item, "streaming", pace), wanted)


def test_a_constant_stream_ends_at_the_counted_share() -> None:
    item = np.tile([0, 1, 0, 2], 500)
    found = np.exp(log_frequency(item, "streaming", 0.1))
    np.testing.assert_allclose(found[-4:], [0.5, 0.25, 0.5, 0.25], rtol=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 6), max_size=5), min_size=1, max_size=4))
def test_sources_take_turns_and_repeat_nothing(lists: list[list[int]]) -> None:
    found = united([np.array([one], np.int64).reshape(1, len(one)) for one in lists])[0].tolist()
    wanted: list[int] = []
    for place in range(5):
        for one in lists:
            if place < len(one) and one[place] >= 0 and one[place] not in wanted:
                wanted.append(one[place])
    assert found == wanted + [-1] * (sum(map(len, lists)) - len(wanted))


def test_recall_is_the_share_of_positives_found() -> None:
    wanted = log(4)
    found = np.array([[wanted.item[0], -1], [-1, -1], [wanted.item[2], wanted.item[3]]])
    recall = recall_at(found, np.array([0, 1, 2, 2]), wanted, "click")
    assert recall[:2].tolist() == [1.0, 0.0]
    assert recall[2] == 1.0  # the fourth row was not clicked
    assert np.isnan(recall_at(found[:1], np.array([0]), Impressions(wanted.frame[3:]), "click")[0])


def test_wrong_logs_and_sources_are_refused() -> None:
    seen = log(50)
    with pytest.raises(ConfigError, match=r"objective: expected one of \['click'\], got buy"):
        train_dssm(seen, DssmConfig(objective="buy"))
    with pytest.raises(ConfigError, match=r"context: expected columns of the log, got \['day'\]"):
        train_dssm(seen, DssmConfig(context=("day",)))
    with pytest.raises(ValueError, match="expected two positives or more, got 0"):
        train_dssm(Impressions(seen.frame[-1:]))
    with pytest.raises(ValueError, match="shown: expected one row an item, got 50 of"):
        DssmSource(train_dssm(seen, DssmConfig(epochs=1)), seen)
    with pytest.raises(ValueError, match=r"expected sources of one number of rows, got \[1, 2\]"):
        united([np.zeros((1, 2), np.int64), np.zeros((2, 2), np.int64)])
