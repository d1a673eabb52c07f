from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.hashed_words import HashedWords
from engine.config import load_config
from engine.evaluation import amazon
from engine.evaluation.leave_one_out import top_items
from engine.evaluation.neighbours import BACK, LAST, RECENT, SCALE, Neighbours
from engine.model.build import build_model
from engine.training.history import Past, past
from engine.training.warm_start import DECAY, REACH
from tests.evaluation.test_amazon import source, tiny
from tests.tiny import cut_of, tiny_config, tiny_shop, trained_like


@cache
def shop_past() -> Past:
    shop = tiny_shop(with_time=False)
    return past(shop, cut_of(shop, 0.8), 1.0, ("purchase",))


def naive(history: Past) -> np.ndarray:
    n = len(history.dataset.item_ids)
    near, counts = np.zeros((n, n)), np.zeros(n)
    for user in range(len(history.offsets) - 1):
        items = history.item[history.events(user)].tolist()
        for i, one in enumerate(items):
            counts[one] += 1
            for j, other in enumerate(items):
                if 0 < abs(j - i) <= REACH:
                    near[one, other] += DECAY ** (abs(j - i) - 1) * (1 if j > i else BACK)
    counts = np.maximum(counts, 1)
    return counts[:, None] ** -0.5 * near * counts**-0.3


def test_the_term_is_the_counts_of_pairs() -> None:
    history = shop_past()
    pairs = naive(history)
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, len(pairs), size).astype(np.int64) for size in (1, 3, LAST + 4)]
    found = Neighbours.of(history).term(histories)
    for row, items in zip(found, histories, strict=True):
        recent = items[::-1][:LAST]
        near = sum(RECENT**place * pairs[item] for place, item in enumerate(recent))
        np.testing.assert_allclose(row, np.log1p(SCALE * near), rtol=1e-4)


def test_lists_follow_the_sum_of_score_and_term() -> None:
    history = shop_past()
    model = trained_like(build_model(tiny_config().model, history.dataset, seed=0)).eval()
    users = np.array(
        [u for u in range(len(history.session_start)) if len(history.history(u).items)]
    )
    near = Neighbours.of(history)
    alone, mixed, counts = top_items(model, history, users, near, (0.0, 2.0, 1e6))
    assert not np.array_equal(alone, mixed)
    seen = [history.history(user).items.astype(np.int64) for user in users.tolist()]
    for row, items, own in zip(counts, near.term(seen), seen, strict=True):
        items[own] = -torch.inf
        best = items.sort(descending=True).values[:10]
        torch.testing.assert_close(items[torch.from_numpy(row)], best, rtol=1e-3, atol=1e-3)
    (again,) = top_items(model, history, users, near)
    assert np.array_equal(alone, again)


@pytest.mark.parametrize("protocol", ["strict", "refit"])
def test_counts_are_of_what_was_trained_on(
    protocol: amazon.Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []
    of = Neighbours.of

    def note(history: Past) -> Neighbours:
        cuts.append(history.cut)
        return of(history)

    monkeypatch.setattr(amazon.Neighbours, "of", staticmethod(note))
    folder = source(tmp_path / "in")
    result = amazon.run(folder, tmp_path, protocol, tiny(tmp_path), HashedWords(16))
    validation, test = amazon.Amazon.read(folder).cuts
    assert cuts == ([validation] if protocol == "strict" else [validation, test])
    assert set(result.model_alone) == ({"test", "validation"} if protocol == "strict" else {"test"})
    assert result.gamma in amazon.WEIGHTS
    if result.gamma == 0:
        assert result.model_alone["test"] == result.test
    assert load_config("next-item").train.seed == result.seed
