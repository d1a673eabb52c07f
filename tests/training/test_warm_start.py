from pathlib import Path

import numpy as np
import pytest
import torch

import engine.training.loop as loop
from engine.training.history import Past, past
from engine.training.warm_start import DECAY, FLATTEN, REACH, cooccurrence_factors
from tests.tiny import cut_of, tiny_config, tiny_shop, without_later

CUT = 0.8


def shop_past() -> Past:
    shop = tiny_shop(with_time=False)
    return past(shop, cut_of(shop, CUT), 1.0, ("purchase",))


def naive(history: Past) -> np.ndarray:
    """D^-f C D^-f by loops over pairs of events."""
    n = len(history.dataset.item_ids)
    near, counts = np.zeros((n, n)), np.zeros(n)
    for user in range(len(history.offsets) - 1):
        items = history.item[history.events(user)].tolist()
        for i, one in enumerate(items):
            counts[one] += 1
            for j, other in enumerate(items):
                if i != j and abs(i - j) <= REACH:
                    near[one, other] += DECAY ** (abs(i - j) - 1)
    flat = np.maximum(counts, 1) ** -FLATTEN
    return flat[:, None] * near * flat


@pytest.mark.parametrize("dim", [5, 12])
def test_factors_are_the_largest_of_the_counts(dim: int) -> None:
    history = shop_past()
    found = cooccurrence_factors(history, dim).astype(float)
    values, vectors = np.linalg.eigh(naive(history))
    best = vectors[:, -dim:] * np.sqrt(values[-dim:].clip(0))
    best /= np.sqrt(np.square(best).mean())
    assert np.square(found).mean() == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(
        found @ found.T, best @ best.T, atol=0.05 * np.abs(best @ best.T).max()
    )
    norms = np.square(found).sum(axis=0)
    assert norms.argmax() == dim - 1
    assert np.array_equal(found, cooccurrence_factors(history, dim))


def test_more_columns_than_factors_are_zero() -> None:
    history = shop_past()
    n = len(history.dataset.item_ids)
    wide = cooccurrence_factors(history, n + 3)
    assert wide.shape == (n, n + 3)
    assert not wide[:, :4].any()
    assert wide[:, 4:].any(axis=0).any()


def test_nothing_behind_the_cut_is_read() -> None:
    shop = tiny_shop(with_time=False)
    cut = cut_of(shop, CUT)
    one = cooccurrence_factors(past(shop, cut, 1.0, ("purchase",)), 6)
    cut_off = past(without_later(shop, cut), cut, 1.0, ("purchase",))
    assert np.array_equal(one, cooccurrence_factors(cut_off, 6))


def test_training_begins_at_the_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = tiny_shop(with_time=False)
    begun: list[torch.Tensor] = []
    step = loop._Run.step

    def note(self: loop._Run, at: int) -> object:
        begun.append(self._model.items.delta.detach().clone())
        return step(self, at)

    monkeypatch.setattr(loop._Run, "step", note)
    for start in ("zero", "cooccurrence"):
        config = tiny_config(epochs=0.5, delta_start=start)
        loop.train(shop, cut_of(shop, CUT), config, tmp_path / start, quiet=True)
    factors = cooccurrence_factors(shop_past(), begun[0].shape[1])
    assert not begun[0].any()
    assert torch.equal(begun[len(begun) // 2], torch.from_numpy(factors))
