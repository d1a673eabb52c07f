from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.retrieval.index import TopK
from engine.retrieval.mask import pack_mask
from engine.retrieval.merge import Bought, RankedList, ranked

N_ITEMS = 20
NEXT, GENERAL, REPEAT = 0, 1, 2
EVERYTHING = pack_mask(np.ones(N_ITEMS, np.bool_))
NOTHING = Bought(np.empty(0, np.int32), np.empty((2, 0), np.float32), EVERYTHING)
distinct = st.lists(st.integers(0, 12), unique=True, max_size=10)
logits = st.sampled_from([-1.0, 0.0, 0.5, 2.0])


def top(lists: list[list[tuple[int, float]]], k: int) -> TopK:
    """Answers of a search, padded to k."""
    found = TopK.empty(len(lists), k)
    for row, answers in enumerate(lists):
        for place, (item, score) in enumerate(answers[:k]):
            found.items[row, place], found.scores[row, place] = item, score
    return found


def falling(items: list[int]) -> list[tuple[int, float]]:
    return list(zip(items, np.linspace(9, 1, len(items)).tolist(), strict=True))


def in_turns(first: list[int], second: list[int], k: int) -> RankedList:
    width = max(k, len(first), len(second))
    return ranked(
        top([falling(first), falling(second)], width), (NEXT, GENERAL), NOTHING, k, REPEAT
    )


@settings(deadline=None)
@given(first=distinct, second=distinct, k=st.integers(1, 25))
def test_round_robin_takes_turns(first: list[int], second: list[int], k: int) -> None:
    found = in_turns(first, second, k)
    left, right, expected = first[:k], second[:k], []
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
        if item < 0:
            assert np.isneginf(found.scores[place])
            assert found.source[place] == -1
        else:
            origin = dict(falling((first, second)[found.source[place]]))
            assert found.scores[place] == np.float32(origin[item])
    for source, origin in ((NEXT, first), (GENERAL, second)):
        ranks = [origin.index(item) for item in found.items[found.source == source].tolist()]
        assert ranks == sorted(ranks)


def test_lists_without_common_items_alternate() -> None:
    found = in_turns([1, 2, 3], [4, 5, 6], 6)
    pairs = zip_longest([1, 2, 3], [4, 5, 6])
    assert found.items.tolist() == [item for pair in pairs for item in pair]
    assert found.source.tolist() == [NEXT, GENERAL] * 3


@settings(deadline=None)
@given(
    catalogue=st.dictionaries(st.integers(0, 9), logits, max_size=8),
    bought=st.dictionaries(st.integers(10, 19), logits, max_size=8),
    swap=st.booleans(),
    forbidden=st.sets(st.integers(0, 19), max_size=4),
    head=st.sampled_from([NEXT, GENERAL]),
    k=st.integers(1, 20),
    padding=st.integers(0, 3),
)
def test_a_list_is_score_descending_then_lower_index(
    catalogue: dict[int, float],
    bought: dict[int, float],
    swap: bool,
    forbidden: set[int],
    head: int,
    k: int,
    padding: int,
) -> None:
    if swap:  # so that on either side of a tie the repeat can have the lower index
        catalogue, bought = bought, catalogue
    best = sorted(catalogue.items(), key=lambda pair: (-pair[1], pair[0]))
    allowed = np.array([item not in forbidden for item in range(N_ITEMS)])
    both = np.full((2, len(bought)), np.float32(7))  # of the other vector
    both[head] = list(bought.values())
    given_ = Bought(np.array(list(bought), np.int32), both, pack_mask(allowed))
    found = ranked(top([best], len(best) + padding), (head,), given_, k, REPEAT)
    may = {item: score for item, score in bought.items() if item not in forbidden}
    expected = sorted((catalogue | may).items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    missing = k - len(expected)
    assert found.items.tolist() == [item for item, _ in expected] + [-1] * missing
    assert found.scores.tolist() == [score for _, score in expected] + [-np.inf] * missing
    sources = [REPEAT if item in bought else head for item, _ in expected]
    assert found.source.tolist() == sources + [-1] * missing


def test_a_logit_that_is_no_number_is_refused() -> None:
    bought = Bought(np.zeros(1, np.int32), np.full((2, 1), np.nan, np.float32), EVERYTHING)
    with pytest.raises(ValueError, match="logits: expected numbers, got NaN"):
        ranked(TopK.empty(1, 3), (NEXT,), bought, 3, REPEAT)
