"""The race: fair turns, and honest numbers of what ran."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from engine.compile.timing import interleaved


def test_every_contender_runs_once_a_round_in_no_fixed_order() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    race = {name: (lambda name=name: calls.append(name)) for name in names}
    times = interleaved(race, rounds=30, warmup=2)
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = [tuple(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert len(rounds) == 30
    assert all(Counter(turn) == Counter(names) for turn in rounds)
    assert len(set(rounds)) == 6
    assert {taken.n for taken in times.values()} == {30}


def test_the_slower_is_slower() -> None:
    times = interleaved({"slow": lambda: time.sleep(0.005), "fast": lambda: None}, rounds=9)
    assert times["slow"].p50 > 5 > times["fast"].p50
    assert times["slow"].p95 >= times["slow"].p50


def test_no_rounds() -> None:
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        interleaved({}, rounds=0)
