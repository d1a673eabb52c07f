from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.retrieval.merge import RankedList, merge_repeats, round_robin

distinct = st.lists(st.integers(0, 12), unique=True, max_size=10)


def ranked(items: list[int], source: int, padding: int = 0) -> RankedList:
    scores = np.linspace(9, 1, len(items), dtype=np.float32)
    return RankedList(
        np.array(items + [-1] * padding, np.int64),
        np.concatenate([scores, np.full(padding, -np.inf, np.float32)]),
        np.array([source] * len(items) + [-1] * padding, np.int32),
    )


@settings(deadline=None)
@given(first=distinct, second=distinct, k=st.integers(1, 25), padding=st.integers(0, 2))
def test_round_robin_takes_turns(first: list[int], second: list[int], k: int, padding: int) -> None:
    found = round_robin(ranked(first, 0, padding), ranked(second, 1, padding), k)
    left, right, expected = list(first), list(second), []
    while left or right:
        for side in (left, right):
            while side and side[0] in expected:
                side.pop(0)
            if side:
                expected.append(side.pop(0))
    expected = expected[:k]
    assert found.items.tolist() == expected + [-1] * (k - len(expected))
    assert len(set(expected)) == len(expected)
    for place, item in enumerate(found.items.tolist()):
        origin = {0: first, 1: second, -1: [-1]}[int(found.source[place])]
        assert item in origin
        if item >= 0:
            score = ranked(origin, 0).scores[origin.index(item)]
            assert found.scores[place] == score
        else:
            assert np.isneginf(found.scores[place])
    for source, origin in ((0, first), (1, second)):
        ranks = [origin.index(item) for item in found.items[found.source == source].tolist()]
        assert ranks == sorted(ranks)


def test_lists_without_common_items_alternate() -> None:
    found = round_robin(ranked([1, 2, 3], 0), ranked([4, 5, 6], 1), 6)
    pairs = zip_longest([1, 2, 3], [4, 5, 6])
    assert found.items.tolist() == [item for pair in pairs for item in pair]
    assert found.source.tolist() == [0, 1] * 3


logits = st.sampled_from([-1.0, 0.0, 0.5, 2.0])


@settings(deadline=None)
@given(
    catalogue=st.dictionaries(st.integers(0, 9), logits, max_size=8),
    repeats=st.dictionaries(st.integers(10, 19), logits, max_size=8),
    swap=st.booleans(),
    k=st.integers(1, 20),
    padding=st.integers(0, 3),
)
def test_merge_is_score_descending_then_lower_index(
    catalogue: dict[int, float], repeats: dict[int, float], swap: bool, k: int, padding: int
) -> None:
    if swap:  # so that on either side of a tie the repeat can have the lower index
        catalogue, repeats = repeats, catalogue
    best = sorted(catalogue.items(), key=lambda pair: (-pair[1], pair[0]))
    found = merge_repeats(
        np.array([item for item, _ in best] + [-1] * padding, np.int64),
        np.array([score for _, score in best] + [-np.inf] * padding, np.float32),
        np.array(list(repeats), np.int64),
        np.array(list(repeats.values()), np.float32),
        k,
        0,
        2,
    )
    expected = sorted((catalogue | repeats).items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    missing = k - len(expected)
    assert found.items.tolist() == [item for item, _ in expected] + [-1] * missing
    assert found.scores.tolist() == [score for _, score in expected] + [-np.inf] * missing
    sources = [2 if item in repeats else 0 for item, _ in expected]
    assert found.source.tolist() == sources + [-1] * missing


def test_repeats_that_cannot_be_merged_are_refused() -> None:
    none, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    with pytest.raises(
        ValueError, match=r"repeat_logits: expected \[2\] as repeat_items, got \[1\]"
    ):
        merge_repeats(none, scores, np.array([1, 2]), np.ones(1, np.float32), 3, 0, 2)
    with pytest.raises(ValueError, match="repeat_logits: expected numbers, got NaN"):
        merge_repeats(none, scores, np.array([1]), np.array([np.nan], np.float32), 3, 0, 2)
