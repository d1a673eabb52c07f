from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.compile.graph import EncodeGraph
from engine.data.clock import DAY_S
from engine.data.dataset import Dataset
from engine.errors import DataError
from engine.features import UserFeatures, encode_inputs, window_start
from engine.model.build import build_model
from engine.repeats import FEATURES
from engine.sales import N_WINDOWS
from engine.training.batches import Batch, Batches, _Window
from engine.training.history import Past, past
from engine.training.pages import page_negatives
from tests.tiny import cut_of, shop_of, tiny_config, tiny_shop, trained_like, without_later

NOON = 1_500_048_000  # 2017-07-14 12:00 in New York


@cache
def shop_past(with_time: bool = True, impressions: bool = False) -> Past:
    shop = tiny_shop(with_time=with_time, impressions=impressions)
    return past(shop, cut_of(shop, 0.8), 1.0, ("purchase",))


def batches(history: Past | None = None, rank: int = 0, world: int = 1, **changes: Any) -> Batches:
    return Batches(history or shop_past(), tiny_config(**changes), rank, world)


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of a batch, in the order of its fields."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for f in fields(value) for leaf in tensors(getattr(value, f.name))]


def equal(one: Batch, other: Batch) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def windows(source: Batches, epoch: int = 0) -> list[_Window]:
    return source._windows(np.random.default_rng((0, epoch)))


def positions(batch: Batch) -> list[tuple[int, int]]:
    """(row of the batch, events before the end) of each position."""
    n_ends = batch.ends.shape[1]
    places = batch.position.tolist()
    return [(p // n_ends, int(batch.ends.flatten()[p])) for p in places]


def test_a_step_is_the_same_whatever_ran_before_it() -> None:
    everything = list(batches().epoch(1))
    assert len(everything) == batches().steps() > 3
    again = list(batches().epoch(1))
    late = list(batches().epoch(1, first_step=2))
    assert all(equal(a, b) for a, b in zip(everything, again, strict=True))
    assert all(equal(a, b) for a, b in zip(everything[2:], late, strict=True))
    assert not equal(everything[0], everything[1])
    assert not equal(everything[0], next(batches().epoch(2)))
    assert not equal(everything[0], next(batches(seed=1).epoch(1)))


def seen_windows(rank: int, world: int, monkeypatch: pytest.MonkeyPatch) -> list[_Window]:
    seen: list[_Window] = []
    source = batches(rank=rank, world=world, batch_size=4)
    make = Batches.batch

    def note(self: Batches, chosen: list[_Window], rng: np.random.Generator) -> Batch:
        seen.extend(chosen)
        return make(self, chosen, rng)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "batch", note)
        assert len(list(source.epoch(0))) == source.steps()
    return seen


def test_two_processes_split_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [[(w.user, w.start) for w in seen_windows(rank, 2, monkeypatch)] for rank in (0, 1)]
    assert len(keys[0]) == len(keys[1])
    assert not set(keys[0]) & set(keys[1])
    assert len(set(keys[0]) | set(keys[1])) == 2 * len(keys[0])
    whole = {(w.user, w.start) for w in windows(batches())}
    assert set(keys[0]) | set(keys[1]) <= whole


@pytest.mark.parametrize("epoch", range(4))
def test_windows_tile_each_history_from_multiples_of_the_hop(epoch: int) -> None:
    source, config = batches(positions=1000), tiny_config().model
    by_user: dict[int, list[_Window]] = {}
    for window in windows(source, epoch):
        by_user.setdefault(window.user, []).append(window)
    assert any(len(group) > 1 for group in by_user.values())
    starts = shop_past().session_start
    assert set(by_user) == {u for u, s in enumerate(starts) if len(s) > 2}
    for user, group in by_user.items():
        assert group[0].start == 0
        for window, following in pairwise(group):
            assert window.stop == following.start
        # Every session start is an end exactly once.
        ends = [w.start + int(end) for w in group for end in w.ends]
        assert ends == starts[user][:-1].tolist()
        for window in group:
            assert window.start % config.hop == 0
            assert 0 < window.stop - window.start <= config.window
            assert window.start == 0 or (window.ends > 0).all()
            follows = starts[user][window.target] - window.start
            np.testing.assert_array_equal(follows, window.ends)


def test_all_starts_of_windows_occur() -> None:
    source = batches()
    starts = {w.start for epoch in range(8) for w in windows(source, epoch)}
    assert starts >= {0, 5, 10, 15, 20}


def test_positions_are_a_draw_of_the_ends() -> None:
    source = batches(positions=2)
    drawn = [w for epoch in range(5) for w in windows(source, epoch)]
    assert max(len(w.ends) for w in drawn) == 2
    assert len({tuple(w.ends) for w in drawn if (w.user, w.start) == (0, 0)}) > 2
    assert all((np.diff(w.ends) > 0).all() for w in drawn)


def test_pooling_cls_ends_a_window_at_its_only_end() -> None:
    source = batches(pooling="cls")
    for window in windows(source):
        assert len(window.ends) == 1
        assert window.stop - window.start == window.ends[0]
    batch = next(source.epoch(0))
    assert batch.ends.shape[1] == 1


def targets(batch: Batch, position: int, weights: torch.Tensor) -> set[int]:
    own = batch.candidates.own[position]
    return set(batch.item[own[(weights[position] > 0)]].tolist())


def naive_sessions(history: Past, user: int) -> list[tuple[int, set[int], int]]:
    """(events before it, distinct items, start) of each session, from the flat events."""
    at = history.events(user)
    found: list[tuple[int, set[int], int]] = []
    for place, (item, time, session) in enumerate(
        zip(history.item[at], history.time[at], history.session[at], strict=True)
    ):
        if session == len(found):
            found.append((place, set(), int(time)))
        found[-1][1].add(int(item))
    return found


@pytest.mark.parametrize("with_time", [True, False])
def test_a_position_asks_for_the_next_session_at_its_start(with_time: bool) -> None:
    history = shop_past(with_time=with_time)
    source = batches(history)
    chosen = windows(source)[:12]
    batch = source.batch(chosen, np.random.default_rng(0))
    flat = [(w, int(end)) for w in chosen for end in w.ends]
    assert len(flat) == len(batch.position) > 12
    assert positions(batch) == [(row, int(end)) for row, w in enumerate(chosen) for end in w.ends]
    for p, (window, end) in enumerate(flat):
        sessions = naive_sessions(history, window.user)
        before = window.start + end
        place = [start for start, _, _ in sessions].index(before)
        _, items, begins = sessions[place]
        assert targets(batch, p, batch.candidates.weight_next) == items
        later = set().union(*(i for _, i, _ in sessions[place : place + 4]))
        assert targets(batch, p, batch.candidates.weight_general) == later
        last = int(history.time[history.events(window.user)][before - 1]) if before else begins
        fields_at = history.calendar.fields(np.array([begins]))
        for name in ("hour", "weekday", "week"):
            assert getattr(batch, name)[p] == fields_at[name][0]
        assert batch.gap_days[p] == pytest.approx((begins - last) / DAY_S)
        np.testing.assert_array_equal(
            batch.signals[p], history.calendar.signals_on(fields_at["day"])[0]
        )


def test_weights_of_a_position_sum_to_one() -> None:
    for batch in batches().epoch(0):
        for weights in (batch.candidates.weight_next, batch.candidates.weight_general):
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))


def test_the_auxiliary_target_is_any_of_the_targets() -> None:
    place: list[float] = []
    for epoch in range(4):
        for batch in batches().epoch(epoch):
            for p, item in enumerate(batch.item[batch.auxiliary].tolist()):
                wanted = sorted(targets(batch, p, batch.candidates.weight_next))
                assert item in wanted
                if len(wanted) > 1:
                    place.append(wanted.index(item) / (len(wanted) - 1))
    assert np.mean(place) == pytest.approx(0.5, abs=0.05), "no place by id"


def test_events_are_the_windows_own() -> None:
    history, source = shop_past(), batches()
    chosen = windows(source)
    batch = source.batch(chosen, np.random.default_rng(0))
    data = history.dataset
    for row, window in enumerate(chosen):
        n = window.stop - window.start
        first = history.events(window.user).start
        at = slice(first + window.start, first + window.stop)
        assert batch.item[batch.sequence[row, :n]].tolist() == history.item[at].tolist()
        fields_at = history.calendar.fields(history.time[at])
        expected = fields_at | {
            "event_type": history.type[at],
            "recency": history.recency[at],
            "signals": history.calendar.signals_on(fields_at["day"]),
        }
        for name, values in expected.items():
            np.testing.assert_array_equal(getattr(batch.events, name)[row, :n], values)
        known = np.isfinite(data.user_numeric[window.user])
        np.testing.assert_array_equal(batch.events.user_known[row], known)
        np.testing.assert_array_equal(
            batch.events.user_categorical[row], data.user_categorical[window.user]
        )
    later = [w for w in chosen if w.start]
    rows = [row for row, w in enumerate(chosen) if w.start]
    assert later
    # The gap to the event before the window is known: it was taken before the cut.
    gaps = batch.events.recency[rows, 0]
    assert bool((gaps > 0).all())


@pytest.mark.parametrize("pooling", ["causal", "cls"])
def test_serving_encodes_an_end_as_training_does(pooling: str) -> None:
    history, config = shop_past(), tiny_config(pooling=pooling)
    data, source = history.dataset, Batches(history, config)
    model = trained_like(build_model(config.model, data, seed=0))
    chosen = [window for epoch in range(5) for window in windows(source, epoch)]
    batch = source.batch(chosen, np.random.default_rng(0))
    with torch.no_grad():
        rows = model.items.rows(torch.arange(60))
        sequence = rows[batch.item[batch.sequence]]
        trained = model.encode(sequence, batch.events, batch.ends)
    compared, graph = 0, EncodeGraph(model)
    for row, end in positions(batch):
        window = chosen[row]
        count = window.start + end
        if window.start != window_start(count, config.model.window, config.model.hop):
            continue
        full = history.history(window.user)
        cut = replace(
            full, items=full.items[:count], times=full.times[:count], types=full.types[:count]
        )
        user = np.array([window.user])
        inputs = encode_inputs(
            [cut],
            UserFeatures(data.user_categorical[user], data.user_numeric[user]),
            rows.numpy(), history.calendar, config.model.window, config.model.hop,
        )  # fmt: skip
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        narrow = {n: x if x.is_floating_point() else x.int() for n, x in tensors.items()}
        with torch.no_grad():
            served = graph(*(narrow[name] for name in graph.inputs))
        column = batch.ends[row].tolist().index(end)
        for ours, theirs in zip(served, trained, strict=True):
            torch.testing.assert_close(ours[0], theirs[row, column], rtol=1e-4, atol=1e-4)
        compared += window.start > 0
    assert compared > 3, "ends in windows that do not start at 0"


def test_a_later_event_changes_no_batch() -> None:
    shop = tiny_shop(impressions=True)
    cut = cut_of(shop, 0.6)
    later, page = shop.event_time >= cut, shop.impression_time >= cut
    planted = replace(
        shop,
        event_item=np.where(later, 3, shop.event_item).astype(np.int32),
        impression_clicked=shop.impression_clicked
        ^ np.repeat(page, np.diff(shop.impression_offsets)),
    )
    assert later.any()
    assert page.any()

    def made(dataset: Dataset) -> list[Batch]:
        return list(batches(past(dataset, cut, 1.0, ("purchase",))).epoch(0))

    expected = made(without_later(shop, cut))
    for dataset in (shop, planted):
        assert all(equal(a, b) for a, b in zip(made(dataset), expected, strict=True))


def test_without_time_no_time_is_used() -> None:
    for batch in batches(shop_past(with_time=False)).epoch(0):
        for name in ("hour", "weekday", "week", "day", "recency"):
            assert not getattr(batch.events, name).any(), name
        for name in ("hour", "weekday", "week", "gap_days", "signals"):
            assert not getattr(batch, name).any(), name
        assert bool(batch.candidates.features.isfinite().all())
        weights = batch.candidates.weight_next
        assert bool(((weights > 0).sum(dim=1) == 1).all()), "a session is one event"


def test_a_first_session_is_asked_for_without_a_history() -> None:
    source = batches(positions=1000)
    chosen = windows(source)[:3]
    batch = source.batch(chosen, np.random.default_rng(0))
    cold = [p for p, (row, end) in enumerate(positions(batch)) if chosen[row].start + end == 0]
    assert cold
    width = batch.candidates.own.shape[1]
    bought = set((batch.candidates.bought // width).tolist())
    assert not bought & set(cold)
    assert len(bought) == len(batch.position) - len(cold)
    assert not batch.gap_days[cold].any()


def test_repeat_rows_stand_at_what_was_bought_before_the_end() -> None:
    history, source = shop_past(), batches(history_candidates=1000)
    chosen = windows(source)[:8]
    batch = source.batch(chosen, np.random.default_rng(0))
    width = batch.candidates.own.shape[1]
    flat = [(w, int(end)) for w in chosen for end in w.ends]
    found: dict[int, set[int]] = {p: set() for p in range(len(flat))}
    for at in batch.candidates.bought.tolist():
        item = batch.item[batch.candidates.own[at // width, at % width]]
        found[at // width].add(int(item))
    for p, (window, end) in enumerate(flat):
        at = history.events(window.user)
        assert found[p] == set(history.item[at][: window.start + end].tolist())
    width = len(FEATURES) + N_WINDOWS
    assert batch.candidates.features.shape == (len(batch.candidates.bought), width)


def test_fewer_than_two_sessions_are_refused(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, [("a", 0, NOON), ("b", 1, NOON)], items=3)
    with pytest.raises(
        DataError, match=r"^training: expected a user with two sessions before the cut, got none$"
    ):
        batches(past(shop, NOON + DAY_S, 1.0, ("purchase",)))


def test_page_negatives_were_shown_on_the_day_and_not_clicked() -> None:
    history = shop_past(impressions=True)
    data, clock = history.dataset, history.calendar.clock
    pages = page_negatives(history, most=1000)
    expected: dict[tuple[int, int], set[int]] = {}
    clicked: dict[tuple[int, int], set[int]] = {}
    for p, (user, time) in enumerate(zip(data.impression_user, data.impression_time, strict=True)):
        at = slice(*data.impression_offsets[p : p + 2])
        if time >= history.cut:
            continue
        for session, (_, _, begins) in enumerate(naive_sessions(history, int(user))):
            if clock.day(np.array([begins, time])).ptp() == 0:
                items, was = data.impression_item[at], data.impression_clicked[at]
                expected.setdefault((int(user), session), set()).update(items.tolist())
                clicked.setdefault((int(user), session), set()).update(items[was].tolist())
    expected = {key: items - clicked[key] for key, items in expected.items()}
    assert {key: set(items.tolist()) for key, items in pages.items()} == expected
    assert len(expected) > 50
    few = page_negatives(history, most=2)
    assert max(len(items) for items in few.values()) == 2
    assert all(set(items) <= expected[key] for key, items in few.items())


def test_pages_that_belong_to_no_session_are_left_out() -> None:
    history = shop_past(impressions=True)
    data = history.dataset
    moved = replace(data, impression_time=data.impression_time - 400 * DAY_S)
    assert page_negatives(replace(history, dataset=moved), 4) == {}
    assert page_negatives(replace(history, cut=int(data.impression_time.min())), 4) == {}
    assert page_negatives(shop_past(), 4) == {}
    assert page_negatives(shop_past(with_time=False, impressions=True), 4) == {}


def test_page_items_are_flagged_as_negatives_of_their_session() -> None:
    history = shop_past(impressions=True)
    source = batches(history, subclass_negatives=0)
    pages = page_negatives(history, tiny_config().train.page_negatives)
    chosen = [w for w in windows(source) if any((w.user, int(t)) in pages for t in w.target)][:6]
    batch = source.batch(chosen, np.random.default_rng(0))
    own, negative = batch.candidates.own, batch.candidates.negative
    flat = [(w.user, int(t)) for w in chosen for t in w.target]
    flagged = 0
    for p, key in enumerate(flat):
        later = targets(batch, p, batch.candidates.weight_general)
        marked = set(batch.item[own[p][negative[p]]].tolist())
        assert marked == set(pages.get(key, np.zeros(0)).tolist()) - later
        flagged += len(marked)
    assert flagged > 10
