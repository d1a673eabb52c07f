"""Filters while columns change: the next mask is of the new values, unread columns cost nothing."""

import threading

import numpy as np
import pytest

from engine.errors import RequestError
from engine.retrieval.columns import Columns
from engine.retrieval.filters import FilterCache
from engine.retrieval.predicate import Predicate

VALUES = {"brand": ["a", "b", "a", None], "in_stock": [True, True, False, False]}


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records what is evaluated."""
    done: list[str] = []
    original = Predicate.__init__

    def counted(self: Predicate, canonical: str, columns: object, evaluate: object) -> None:
        def told() -> object:
            done.append(canonical)
            return evaluate()  # type: ignore[operator]

        original(self, canonical, columns, told)  # type: ignore[arg-type]

    monkeypatch.setattr(Predicate, "__init__", counted)
    return done


def test_an_update_is_in_the_next_mask_of_every_spelling() -> None:
    cache = FilterCache(Columns.from_values(VALUES, 4))
    texts = ['{"in_stock": {"eq": true}}', '{"and": [{"in_stock": {"in": [true]}}]}']
    negated = '{"not": {"or": [{"in_stock": {"eq": true}}, {"brand": {"eq": "a"}}]}}'
    before = cache.mask(texts[0])
    assert before.tolist() == [True, True, False, False]
    assert cache.mask(negated).tolist() == [False, False, False, True]
    cache.replace(cache.columns.updated({"in_stock": {0: False, 3: True}}))
    for text in texts:
        assert cache.mask(text).tolist() == [False, True, False, True]
    assert cache.mask(negated).tolist() == [False, False, False, False]
    assert before.tolist() == [True, True, False, False], "a request in flight keeps its mask"


def test_only_masks_that_read_a_changed_column_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = evaluations(monkeypatch)
    cache = FilterCache(Columns.from_values(VALUES, 4))
    brand, both = (
        '{"brand": {"eq": "a"}}',
        '{"or": [{"brand": {"eq": "a"}}, {"in_stock": {"eq": true}}]}',
    )
    kept = cache.mask(brand)
    cache.mask(both)
    done.clear()
    cache.replace(cache.columns.updated({"in_stock": {2: True}}))
    assert cache.mask(brand) is kept
    assert done == []
    assert len(cache) == 1
    assert cache.mask(both).tolist() == [True, True, True, False]
    assert done


def test_a_value_that_first_comes_with_an_update_is_found() -> None:
    cache = FilterCache(Columns.from_values(VALUES, 4))
    text = '{"brand": {"eq": "new"}}'
    assert not cache.mask(text).any()
    cache.replace(cache.columns.updated({"brand": {3: "new"}}))
    assert cache.mask(text).tolist() == [False, False, False, True]


def test_columns_of_more_items_drop_every_mask() -> None:
    cache = FilterCache(Columns.from_values(VALUES, 4))
    assert cache.mask('{"and": []}').tolist() == [True] * 4
    cache.replace(Columns.from_values({"brand": ["a"] * 6}, 6))
    assert cache.mask('{"and": []}').tolist() == [True] * 6
    with pytest.raises(RequestError, match=r"expected and, or, not or a column .brand., got"):
        cache.mask('{"in_stock": {"eq": true}}')


def test_updates_and_requests_at_once_see_whole_updates() -> None:
    n_items = 500
    cache = FilterCache(Columns.from_values({"x": [0] * n_items, "y": [0] * n_items}, n_items))
    wrong, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            mask = cache.mask('{"or": [{"x": {"eq": 1}}, {"y": {"eq": 1}}]}')
            if mask.any() != mask.all():
                wrong.append(mask)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for turn in range(100):
            values = dict.fromkeys(range(n_items), turn % 2)
            cache.replace(cache.columns.updated({"x": values, "y": values}))
            expected = np.full(n_items, turn % 2 == 1)
            np.testing.assert_array_equal(cache.mask('{"x": {"eq": 1}}'), expected)
    finally:
        stop.set()
        thread.join()
    assert not wrong
