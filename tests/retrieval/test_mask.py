import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.retrieval.mask import mask_words, pack_mask, unpack_mask


@pytest.mark.parametrize(
    ("n_items", "words"), [(0, 0), (1, 1), (31, 1), (32, 1), (33, 2), (68_000, 2125)]
)
def test_words_cover_every_item(n_items: int, words: int) -> None:
    assert mask_words(n_items) == words
    assert pack_mask(np.ones(n_items, bool)).shape == (words,)


@given(allowed=st.lists(st.booleans(), max_size=100))
def test_bit_j_of_word_w_is_item_32_w_plus_j(allowed: list[bool]) -> None:
    words = pack_mask(np.array(allowed, bool))
    assert words.dtype == np.int32
    bits = [bool(int(words[item // 32]) >> item % 32 & 1) for item in range(words.size * 32)]
    assert bits == allowed + [False] * (len(bits) - len(allowed))


def test_rows_are_packed_apart_and_unpack_again() -> None:
    allowed = np.random.default_rng(0).random((3, 45)) < 0.5
    words = pack_mask(allowed)
    assert words.shape == (3, 2)
    np.testing.assert_array_equal(words[1], pack_mask(allowed[1]))
    np.testing.assert_array_equal(unpack_mask(words, 45), allowed)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="allowed: expected dtype bool, got int64"):
        pack_mask(np.ones(3, np.int64))  # type: ignore[arg-type]
