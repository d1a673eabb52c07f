"""Compiled loops beside what numpy says of the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.retrieval.index import best_of
from engine.retrieval.mask import allow_more, are_allowed, pack_mask, without


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 7, 64, 301]),
    k=st.sampled_from([1, 3, 10, 64, 400]),
    levels=st.sampled_from([1, 3, 1_000]),
)
@settings(deadline=None, max_examples=80)
def test_the_best_are_a_stable_sort_s(seed: int, n: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, n)).astype(np.float32)
    items = np.stack([rng.permutation(10 * n)[:n] for _ in range(3)])
    scores[0, n // 2 :], items[0, n // 2 :] = -np.inf, -1  # padded
    order = np.lexsort((items, -scores), axis=-1)[:, :k]
    found = best_of(scores, items, k)
    size = min(n, k)
    np.testing.assert_array_equal(found.items[:, :size], np.take_along_axis(items, order, 1))
    np.testing.assert_array_equal(found.scores[:, :size], np.take_along_axis(scores, order, 1))
    assert (found.items[:, size:] == -1).all()
    assert (found.scores[:, size:] == -np.inf).all()


@pytest.mark.parametrize("n_items", [1, 31, 32, 33, 1_000])
def test_words_say_what_the_bits_say(n_items: int) -> None:
    rng = np.random.default_rng(n_items)
    allowed = rng.random((4, n_items)) < 0.5
    allowed[0], allowed[1] = True, False
    words = pack_mask(allowed)
    for than in (0, n_items / 2, n_items - 1, n_items):
        np.testing.assert_array_equal(allow_more(words, than), allowed.sum(axis=1) > than)
    items = rng.permutation(n_items)[: n_items // 3].astype(np.int32)
    np.testing.assert_array_equal(are_allowed(words[2], items), allowed[2, items])
    masked = allowed[2].copy()
    masked[items] = False
    np.testing.assert_array_equal(without(words[2], items), pack_mask(masked))
    np.testing.assert_array_equal(words[2], pack_mask(allowed[2]))  # it stays as it was
