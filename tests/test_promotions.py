"""What is promoted when: looked up by item and day, as counting would."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.promotions import Promotions

# Of an item: (days before it, days that it lasts, strength), one after the other.
_RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 9)), max_size=4)


def promotions(runs: list[list[tuple[int, int, int]]]) -> tuple[Promotions, dict]:
    """The arrays, and (item, day) -> strength."""
    offsets, rows, by_day = [0], [], {}
    for item, own in enumerate(runs):
        day = 0
        for gap, more, strength in own:
            rows.append((day + gap, day + gap + more, strength))
            by_day |= {(item, d): strength for d in range(day + gap, day + gap + more + 1)}
            day += gap + more
        offsets.append(len(rows))
    table = np.array(rows, np.int32).reshape(-1, 3)
    strength = np.stack([table[:, 2], -table[:, 2]], axis=1).astype(np.float32)
    return Promotions(np.array(offsets), table[:, 0], table[:, 1], strength), by_day


@settings(deadline=None)
@given(st.lists(_RUNS, min_size=1, max_size=4), st.integers(-1, 20))
def test_a_look_up_equals_counting(runs: list[list[tuple[int, int, int]]], since: int) -> None:
    whole, by_day = promotions(runs)
    later = whole.since(since)
    for item in range(len(runs) + 2):  # two that were added later
        for day in range(-1, 35):
            asked = np.array([item], np.int32), np.array([day])
            value = by_day.get((item, day), 0)
            assert whole.at(*asked).tolist() == [[value, -value]]
            if day >= since:
                assert later.at(*asked).tolist() == [[value, -value]]
    assert (later.last_day >= since).all()


def test_without_kinds_there_is_nothing_to_look_up() -> None:
    none = np.zeros(0, np.int32)
    nothing = Promotions(np.zeros(3, np.int64), none, none, np.zeros((0, 0), np.float32))
    assert nothing.at(np.array([0, 1], np.int32), np.array([5, 6])).shape == (2, 0)
